"""The run folders that Weights & Biases leaves offline, and which of them are complete.

The client gives no sign that a folder is whole.  A marker is written beside the run's file once
the file has been read back; it says what the run is, the hash of the run's file and the sizes of
the files it refers to, so a folder that was cut short, changed or made from other content is told
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
from typing import Any, Self

from telescope_pipeline.publish.record import RunRecord

MARKER = "telescope.json"
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

    @classmethod
    def of(cls, record: RunRecord, project: str, entity: str | None) -> Self:
        """Describe a run that is to be sent."""
        # The client gives pictures and tables a row of their own.
        rows = len(record.history) + bool(record.pictures or record.tables)
        artifacts = tuple(artifact.name for artifact in record.artifacts)
        return cls(record.id, project, entity, record.digest(), rows, artifacts, record.uses)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what was written with :func:`dataclasses.asdict`."""
        return cls(**{**data, **{name: tuple(data[name]) for name in ("artifacts", "uses")}})


def folder_pattern(run_id: str) -> str:
    """Return a pattern, relative to the project, that matches the run's folder whenever made."""
    return f"wandb/offline-run-*-{run_id}"


def run_folders(root: Path, run_id: str) -> list[Path]:
    """Find every folder of a run, oldest first; ``root`` is the folder that holds ``wandb/``."""
    return sorted(root.glob(folder_pattern(glob.escape(run_id))))


def complete_folder(root: Path, shipment: Shipment) -> Path | None:
    """Find the folder that holds a run as it should be; None also if there are several."""
    folders = run_folders(root, shipment.id)
    return folders[0] if len(folders) == 1 and _held(folders[0]) == shipment else None


def shipments(root: Path) -> dict[Path, Shipment]:
    """Find every run that lies complete in a folder, sent or not.

    Returns:
        The runs by folder, oldest first, without folders that are not whole or that something else
        made.
    """
    found = {folder: _held(folder) for folder in sorted(root.glob(folder_pattern("*")))}
    return {folder: shipment for folder, shipment in found.items() if shipment is not None}


def remove_folders(root: Path, run_id: str) -> None:
    """Remove every folder of a run."""
    for folder in run_folders(root, run_id):
        # Without its marker a folder that is half removed is not taken for a complete one.
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder)


def mark_complete(folder: Path, shipment: Shipment) -> None:
    """Say that a folder holds what it should; call it when the run's file has been read back."""
    marker = {"shipment": asdict(shipment), **_fingerprint(folder, shipment.id)}
    partial = folder / f".{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MARKER)


def run_file(folder: Path, run_id: str) -> Path:
    """Return the path of the run's file in its folder."""
    return folder / f"run-{run_id}.wandb"


def _held(folder: Path) -> Shipment | None:
    """The run that lies whole in a folder."""
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        shipment = Shipment.from_json(marker.pop("shipment"))
        whole = marker == _fingerprint(folder, shipment.id)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return shipment if whole else None


def _fingerprint(folder: Path, run_id: str) -> dict[str, Any]:
    content = run_file(folder, run_id).read_bytes()
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for part in _KEPT
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }
    return {"sha256": hashlib.sha256(content).hexdigest(), "sizes": sizes}
