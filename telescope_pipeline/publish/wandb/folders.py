"""The run folders that Weights & Biases leaves offline, and which of them are complete.

The client gives no sign that a folder is whole.  A marker is written beside the run's file once
the file has been read back; it says what the run is, the hash of the run's file and the sizes of
the files it refers to, so a folder that was cut short, changed or made from other content is told
apart.  It also says everything that is to be sent, with the folder's own copies of files.  Nothing
here imports the client.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from telescope_core.trackers.wandb import PAYLOAD
from telescope_pipeline.publish.record import RunRecord

MARKER = "telescope.json"
# The files that the run's file refers to; sending the run adds others.
_KEPT = ("files/media", PAYLOAD)


@dataclass(frozen=True)
class Shipment:
    """Which run lies in a folder, and where it belongs.

    Attributes:
        id: The run.
        project: The project that receives it.
        entity: The account or team; None for the default one.
        digest: Hash of the run's content, which its config carries.
    """

    id: str
    project: str
    entity: str | None
    digest: str

    @classmethod
    def of(cls, record: RunRecord, project: str, entity: str | None) -> Self:
        """Describe a run that is to be sent."""
        return cls(record.id, project, entity, record.digest())


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


def mark_complete(folder: Path, shipment: Shipment, record: RunRecord) -> None:
    """Say that a folder holds what it should; call it when the run's file has been read back."""
    marker = {
        "shipment": asdict(shipment),
        "record": _moved(record, folder).to_json(),
        **_fingerprint(folder, shipment.id),
    }
    partial = folder / f".{MARKER}.partial"
    partial.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder / MARKER)


def record_in(folder: Path) -> RunRecord:
    """Read what a folder holds, with its own copies of the files."""
    record = RunRecord.from_json(json.loads((folder / MARKER).read_bytes())["record"])
    return _relocated(record, lambda path, artifact, name: folder / path)


def rows_of(record: RunRecord) -> int:
    """Rows of history in a run's file; pictures and tables have one of their own."""
    return len(record.history) + bool(record.pictures or record.tables)


def _moved(record: RunRecord, folder: Path) -> RunRecord:
    """The same with the copies of its files that lie in the folder, relative to it."""
    return _relocated(record, lambda path, artifact, name: Path(PAYLOAD, artifact, name))


def _relocated(record: RunRecord, place: Callable[[Path, str, str], Path]) -> RunRecord:
    moved: dict[Path, Path] = {}
    artifacts = []
    for artifact in record.artifacts:
        kept = {name: place(path, artifact.name, name) for name, path in artifact.files.items()}
        moved |= {path: kept[name] for name, path in artifact.files.items()}
        artifacts.append(replace(artifact, files=kept))
    # What is shown is also kept among the results.
    pictures = [replace(p, path=moved.get(p.path, p.path)) for p in record.pictures]
    return replace(record, artifacts=tuple(artifacts), pictures=tuple(pictures))


def run_file(folder: Path, run_id: str) -> Path:
    """Return the path of the run's file in its folder."""
    return folder / f"run-{run_id}.wandb"


def _held(folder: Path) -> Shipment | None:
    """The run that lies whole in a folder."""
    try:
        marker = json.loads((folder / MARKER).read_bytes())
        shipment = Shipment(**marker.pop("shipment"))
        del marker["record"]
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
