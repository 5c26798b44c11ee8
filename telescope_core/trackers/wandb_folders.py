"""The run folders that Weights & Biases leaves offline, and which of them are complete.

The client gives no sign that a folder is whole.  A marker is written beside the run's file once
the file has been read back; it names the content, the hash of the run's file and the sizes of the
files it refers to, so a folder that was cut short, changed or made from other content is told
apart.  Nothing here imports the client.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

MARKER = "telescope.json"
_FOLDER = "wandb"
# The files that the run's file refers to; sending the run adds others.
_KEPT = ("files/media", "payload")


def folder_pattern(run_id: str) -> str:
    """Return a pattern, relative to the project, that matches the run's folder whenever made."""
    return f"{_FOLDER}/offline-run-*-{run_id}"


def run_folders(root: Path, run_id: str) -> list[Path]:
    """Find every folder of a run.

    Args:
        root: The folder that holds ``wandb/``.
        run_id: The run.

    Returns:
        Folders, oldest first.
    """
    return sorted(root.glob(folder_pattern(glob.escape(run_id))))


def complete_folder(root: Path, run_id: str, content: str) -> Path | None:
    """Find the folder that holds a run as it should be.

    Args:
        root: The folder that holds ``wandb/``.
        run_id: The run.
        content: Hash of what the run must hold.

    Returns:
        The one folder of this run if it is complete, else None; also if there are several.
    """
    folders = run_folders(root, run_id)
    if len(folders) != 1 or not _is_complete(folders[0], run_id, content):
        return None
    return folders[0]


def remove_folders(root: Path, run_id: str) -> None:
    """Remove every folder of a run."""
    for folder in run_folders(root, run_id):
        # Without its marker a folder that is half removed is not taken for a complete one.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)


def mark_complete(folder: Path, run_id: str, content: str) -> None:
    """Say that a folder holds what it should; call it when the run's file has been read back."""
    marker = {"id": run_id, "content": content, **_fingerprint(folder, run_id)}
    partial = folder / f".{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MARKER)


def run_file(folder: Path, run_id: str) -> Path:
    """Return the path of the run's file in its folder."""
    return folder / f"run-{run_id}.wandb"


def _is_complete(folder: Path, run_id: str, content: str) -> bool:
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        found = {"id": run_id, "content": content, **_fingerprint(folder, run_id)}
    except (OSError, ValueError):
        return False
    return bool(marker == found)


def _fingerprint(folder: Path, run_id: str) -> dict[str, Any]:
    content = run_file(folder, run_id).read_bytes()
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for part in _KEPT
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }
    return {"sha256": hashlib.sha256(content).hexdigest(), "sizes": sizes}
