"""The hashes under which DVC knows files and folders.

They are computed from what is published, in DVC's way, so they name these very bytes; for outputs
that are up to date they are the ones in ``dvc.lock``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from telescope_core.errors import ArtifactError
from telescope_pipeline.store.files import read_bytes


def dvc_output(path: Path, root: Path) -> dict[str, Any]:
    """Describe a file or a folder as ``dvc.lock`` does.

    Returns:
        ``path`` relative to ``root``, ``md5`` (ending in ``.dir`` for a folder), ``size`` in bytes
        and, for a folder, ``nfiles``.

    Raises:
        ArtifactError: If there is nothing at ``path``, or it cannot be read.
    """
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return {"path": name, **_folder(path)}
    content = read_bytes(path)
    return {"path": name, "md5": _md5(content), "size": len(content)}


def files_below(path: Path) -> dict[str, Path]:
    """List the files in a folder and below.

    Returns:
        The files by their path relative to the folder, sorted.

    Raises:
        ArtifactError: If the folder does not exist or holds no files.
    """
    found = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    if not found:
        raise ArtifactError(f"{path}: no files; run the stage before this one, or `dvc checkout`")
    return dict(sorted(found.items()))


def _folder(path: Path) -> dict[str, Any]:
    entries = []
    size = 0
    for name, file in files_below(path).items():
        content = read_bytes(file)
        size += len(content)
        entries.append({"md5": _md5(content), "relpath": name})
    listing = json.dumps(entries, sort_keys=True).encode()
    return {"md5": f"{_md5(listing)}.dir", "size": size, "nfiles": len(entries)}


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
