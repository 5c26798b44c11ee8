"""The scratch folder ``.telescope/``: finished members and checkpoints, found by content.

A killed stage goes on where it was, and a sweep that grows trains what is new.  DVC and git do not
see the folder; deleting it costs computing time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError
from telescope_pipeline.store import files

if TYPE_CHECKING:
    from torch import Tensor

_LOG = logging.getLogger(__name__)
_SEAL = "seal.json"


class Scratch:
    """Finished members and checkpoints of one project.

    Args:
        folder: The scratch folder, usually ``.telescope``.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def holds(self, key: str) -> bool:
        """Say whether a finished member is there and whole; a damaged one is thrown away."""
        entry = self.folder / "members" / key
        if not entry.is_dir():
            return False
        try:
            seal = files.read_json(entry / _SEAL)
            whole = all(files.sha256(entry / name) == digest for name, digest in seal.items())
        except (ArtifactError, AttributeError):
            whole = False
        if not whole:
            _LOG.warning("%s is damaged and will be computed again", entry)
            shutil.rmtree(entry)
        return whole

    def store(self, key: str, contents: dict[str, bytes]) -> None:
        """Keep the files of a finished member and drop its checkpoint.

        Raises:
            ArtifactError: If they cannot be written.
        """
        try:
            if not self.holds(key):
                self._store(key, contents)
        except ArtifactError:
            # Two experiments may train the same member at the same time.
            if not self.holds(key):
                raise
        self.checkpoint(key).discard()

    def _store(self, key: str, contents: dict[str, bytes]) -> None:
        with files.new_folder(self.folder / "members" / key) as folder:
            for name, content in contents.items():
                files.write_bytes(folder / name, content)
            seal = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
            files.write_json(folder / _SEAL, seal)

    def path(self, key: str, name: str) -> Path:
        """Return the place of a file of a finished member."""
        return self.folder / "members" / key / name

    def checkpoint(self, key: str) -> FileCheckpoint:
        """Return the place of a member's checkpoint."""
        return FileCheckpoint(self.folder / "checkpoints" / f"{key}.safetensors")


class FileCheckpoint:
    """A checkpoint in one safetensors file, replaced as a whole.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the saved tensors and state, or None if there are none or they are damaged."""
        if not self.path.exists():
            return None
        try:
            content = files.read_bytes(self.path)
            tensors = files.parse_tensors(self.path, content)
            saved = _metadata(content)
            if _digest(tensors, saved["state"]) != saved["sha256"]:
                raise ArtifactError(f"{self.path}: the content does not match its hash")
            return tensors, json.loads(saved["state"])
        except (ArtifactError, KeyError, ValueError) as error:
            _LOG.warning("the checkpoint is not usable, training starts over: %s", error)
            self.discard()
            return None

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the checkpoint; ``state`` is JSON-able.

        Raises:
            ArtifactError: If it cannot be written; the one before stays.
        """
        try:
            text = json.dumps(state, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ArtifactError(f"the checkpoint's state is not JSON-able: {error}") from error
        metadata = {"state": text, "sha256": _digest(tensors, text)}
        files.write_tensors(self.path, tensors, metadata)

    def discard(self) -> None:
        """Delete the checkpoint."""
        self.path.unlink(missing_ok=True)


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    return hashlib.sha256(files.tensor_bytes(tensors) + state.encode()).hexdigest()


def _metadata(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata
