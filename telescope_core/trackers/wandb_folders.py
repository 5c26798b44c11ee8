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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MARKER = "telescope.json"
_FOLDER = "wandb"
# The files that the run's file refers to; sending the run adds others.
_KEPT = ("files/media", "payload")


@dataclass(frozen=True)
class Shipment:
    """What it takes to send a run and to recognise it at the server.

    Attributes:
        id: The run.
        project: The project that receives it.
        entity: The account or team; None for the default one.
        digest: Hash of the run's content, which its config carries.
        rows: The rows of history it has at the server.
        artifacts: Names of the artifacts it logs.
        uses: Names of the artifacts, logged by other runs, that it was made from.
    """

    id: str
    project: str
    entity: str | None
    digest: str
    rows: int
    artifacts: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Write it as JSON-able data."""
        return {**asdict(self), "artifacts": list(self.artifacts), "uses": list(self.uses)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Shipment:
        """Read what :meth:`to_json` wrote."""
        lists = {name: tuple(data[name]) for name in ("artifacts", "uses")}
        return cls(**{**data, **lists})


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


def shipments(root: Path) -> dict[Path, Shipment]:
    """Find every run that lies complete in a folder, whether it was sent or not.

    Args:
        root: The folder that holds ``wandb/``.

    Returns:
        The runs by folder, oldest first.  Folders that are not whole, and those that something
        else than this package made, are left out.
    """
    found = {}
    for marker in sorted(root.glob(f"{_FOLDER}/offline-run-*/{MARKER}")):
        folder = marker.parent
        try:
            content = json.loads(marker.read_bytes())
            shipment = Shipment.from_json(content["shipment"])
            whole = _is_complete(folder, shipment.id, content["content"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        if whole:
            found[folder] = shipment
    return found


def remove_folders(root: Path, run_id: str) -> None:
    """Remove every folder of a run."""
    for folder in run_folders(root, run_id):
        # Without its marker a folder that is half removed is not taken for a complete one.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)


def mark_complete(folder: Path, content: str, shipment: Shipment) -> None:
    """Say that a folder holds what it should; call it when the run's file has been read back."""
    marker = {"id": shipment.id, "content": content, **_fingerprint(folder, shipment.id)}
    marker["shipment"] = shipment.to_json()
    partial = folder / f".{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MARKER)


def run_file(folder: Path, run_id: str) -> Path:
    """Return the path of the run's file in its folder."""
    return folder / f"run-{run_id}.wandb"


def _is_complete(folder: Path, run_id: str, content: str) -> bool:
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        marker.pop("shipment")
        found = {"id": run_id, "content": content, **_fingerprint(folder, run_id)}
    except (OSError, ValueError, AttributeError, KeyError):
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
