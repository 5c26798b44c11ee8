"""Delivering finished runs to Weights & Biases, without being at its mercy.

Runs are always written offline first; that takes no network and little time.  Online, the folders
are then sent, and a run counts as delivered when the server shows it back.  The client runs in
processes of its own, watched by the clock: it may crash, hang or lose its connection, and the
outcome says so.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from telescope_core.errors import ConfigurationError
from telescope_core.trackers._containment import redacted
from telescope_core.trackers._wandb_process import (
    CREDENTIALS,
    converse,
    ending,
    environment_of,
)
from telescope_core.trackers.record import RunRecord, digest_of
from telescope_core.trackers.wandb_folders import Shipment, complete_folder, remove_folders
from telescope_core.trackers.weights_and_biases import history_rows

_LOG = logging.getLogger(__name__)

Mode = Literal["auto", "online", "offline"]


@dataclass(frozen=True)
class Patience:
    """How long to wait for the client, in seconds.

    Attributes:
        start: For the client to be loaded.
        run: For the client to write one more run offline.
        connect: For the server to answer.
        send: For one more run to reach the server, besides the time its files need.
        bytes_per_second: The slowest upload that is waited for.
    """

    start: float = 30.0
    run: float = 20.0
    connect: float = 6.0
    send: float = 10.0
    bytes_per_second: float = 250_000.0


@dataclass(frozen=True)
class Outcome:
    """Where the runs are.

    Attributes:
        mode: ``"online"`` if the server holds all of them, ``"offline"`` if their folders wait to
            be sent, ``"failed"`` if there are not even folders.
        reason: Why it is not ``"online"``; None if it is.
        entity: The account or team online, if it is known.
        urls: The address of each run that the server holds, by run id.
    """

    mode: Literal["online", "offline", "failed"]
    reason: str | None = None
    entity: str | None = None
    urls: Mapping[str, str] = field(default_factory=dict)


REFUSALS = {
    "no_key": "no W&B key is configured",
    "key_refused": "the W&B server refused the key",
    "no_answer": "the W&B server did not answer in time",
}
_WRITE_FAILURES = {
    "missing": "the package wandb is not installed",
    "client": "the W&B client could not write the runs",
}

_STAY_OFFLINE = ("offline", "dryrun", "disabled")


def deliver(
    records: Sequence[RunRecord],
    *,
    project: str,
    entity: str | None,
    mode: Mode,
    root: Path,
    patience: Patience | None = None,
) -> Outcome:
    """Deliver runs, each of them once.

    A run whose folder is complete is not written again, and one that the server holds is not sent
    again, so delivering the same records twice leaves what delivering them once does.

    Args:
        records: The runs.
        project: The project that receives them.
        entity: The account or team; None for the default one.
        mode: ``"offline"`` only writes folders.  ``"online"`` and ``"auto"`` send them as well;
            they differ in what the caller makes of a server that cannot be used.  A ``WANDB_MODE``
            in the environment that says offline or disabled keeps them off the network.
        root: The folder that holds ``wandb/``.
        patience: How long to wait for the client.

    Returns:
        Where the runs are.  Nothing that the client or the server does raises an error.
    """
    patience = patience or Patience()
    try:
        problem = _write(records, project, entity, root, patience)
    except (OSError, ValueError) as error:
        problem = _unable(error)
    if problem is not None:
        return Outcome("failed", problem)
    if mode == "offline":
        return Outcome("offline", "offline mode was asked for")
    wish = os.environ.get("WANDB_MODE", "")
    if wish in _STAY_OFFLINE:
        return Outcome("offline", f"WANDB_MODE={wish} is set in the environment")
    folders = {}
    for record in records:
        shipment = _shipment(record, project, entity)
        folder = complete_folder(root, shipment.id, _content(record, project, entity))
        if folder is None:
            return Outcome("offline", "a run folder changed while it was being published")
        folders[folder] = shipment
    return send(folders, root=root, patience=patience)


def send(runs: Mapping[Path, Shipment], *, root: Path, patience: Patience | None = None) -> Outcome:
    """Send runs of one project that lie complete in their folders.

    Args:
        runs: The runs by folder.
        root: The folder that holds ``wandb/``.
        patience: How long to wait for the client.

    Returns:
        Where the runs are; ``"online"`` if the server showed all of them back, whole.  Nothing
        that the client or the server does raises an error.

    Raises:
        ConfigurationError: If the runs belong to several projects.
    """
    places = {(shipment.project, shipment.entity) for shipment in runs.values()}
    if len(places) != 1:
        raise ConfigurationError(
            f"got runs of {len(places)} projects; expected runs of one: call it once for each"
        )
    ((project, entity),) = places
    try:
        return _upload(runs, project, entity, root, patience or Patience())
    except (OSError, ValueError) as error:
        return Outcome("offline", _unable(error))


def _shipment(record: RunRecord, project: str, entity: str | None) -> Shipment:
    return Shipment(
        id=record.description.id,
        project=project,
        entity=entity,
        digest=record.digest(),
        rows=history_rows(record),
        artifacts=tuple(artifact.name for artifact in record.artifacts),
        uses=record.uses,
    )


def _unable(error: Exception) -> str:
    """Say that the client could not even be talked to."""
    _LOG.warning("publish: %s", redacted(f"{type(error).__name__}: {error}"))
    return "the W&B client could not be run"


def _write(
    records: Sequence[RunRecord], project: str, entity: str | None, root: Path, patience: Patience
) -> str | None:
    """Write the folders that are not there yet; return what went wrong, if anything."""
    contents = {r.description.id: _content(r, project, entity) for r in records}
    missing = [r for r in records if not complete_folder(root, *_of(r, contents))]
    if not missing:
        return None
    try:
        for record in missing:
            remove_folders(root, record.description.id)
    except OSError as error:
        return f"old run folders could not be removed: {error.strerror}"
    request = {
        "root": str(root),
        "project": project,
        "entity": entity,
        "runs": [
            {
                "record": record.to_json(),
                "content": contents[record.description.id],
                "shipment": _shipment(record, project, entity).to_json(),
            }
            for record in missing
        ],
    }
    limits = {"": patience.start, "ready": patience.run, "written": patience.run}
    with tempfile.TemporaryDirectory(prefix="ts-") as scratch:
        environment = environment_of(scratch, keep=())
        environment["WANDB_CONFIG_DIR"] = scratch
        environment["WANDB_MODE"] = "offline"
        answers = list(converse("write", request, environment, root, limits))
    for answer in answers:
        if answer["event"] == "failed":
            _LOG.warning("publish: %s", redacted(answer["detail"]))
            return _WRITE_FAILURES[answer["why"]]
    if any(not complete_folder(root, *_of(record, contents)) for record in missing):
        return f"the W&B client {ending(answers)}"
    return None


def _upload(
    shipments: Mapping[Path, Shipment],
    project: str,
    entity: str | None,
    root: Path,
    patience: Patience,
) -> Outcome:
    runs = [{**shipment.to_json(), "folder": str(folder)} for folder, shipment in shipments.items()]
    heaviest = max(_weight(folder) for folder in shipments)
    request = {"project": project, "entity": entity, "runs": runs}
    sending = patience.send + heaviest / patience.bytes_per_second
    limits = {"": patience.start, "ready": patience.connect} | dict.fromkeys(
        ("connected", "sent", "held", "synced"), sending
    )
    with tempfile.TemporaryDirectory(prefix="ts-") as scratch:
        environment = environment_of(scratch, keep=CREDENTIALS)
        answers = list(converse("upload", request, environment, root, limits))
    urls = {answer["id"]: answer["url"] for answer in answers if answer["event"] == "synced"}
    found = next((a["entity"] for a in answers if a["event"] == "connected"), entity)
    if len(urls) == len(runs):
        return Outcome("online", None, found, urls)
    return Outcome("offline", _upload_problem(answers, len(urls), len(runs)), found, urls)


def _upload_problem(answers: Sequence[dict[str, Any]], there: int, wanted: int) -> str:
    for answer in answers:
        if answer["event"] == "refused":
            _LOG.warning("publish: %s", redacted(answer["detail"]))
            return REFUSALS[answer["why"]]
    if not any(answer["event"] == "connected" for answer in answers):
        silent = answers[-1]["event"] == "timeout"
        return REFUSALS["no_answer"] if silent else f"the W&B client {ending(answers)}"
    return f"{there} of {wanted} runs reached the W&B server before it stopped answering"


def _content(record: RunRecord, project: str, entity: str | None) -> str:
    return digest_of([record.digest(), project, entity])


def _of(record: RunRecord, contents: Mapping[str, str]) -> tuple[str, str]:
    run_id = record.description.id
    return run_id, contents[run_id]


def _weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
