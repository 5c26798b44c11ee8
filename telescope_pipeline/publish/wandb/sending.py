"""Bringing finished runs to Weights & Biases.

A run is written to a folder, the folder is sent, and the run counts as delivered when the server
shows it back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from telescope_core.errors import ConfigurationError
from telescope_pipeline.publish.conversation import Patience, ask, stopped, unable
from telescope_pipeline.publish.delivery import Delivery, Place
from telescope_pipeline.publish.record import RunRecord
from telescope_pipeline.publish.wandb.folders import (
    Shipment,
    complete_folder,
    folder_pattern,
    remove_folders,
)

Mode = Literal["auto", "online", "offline"]

WHO = "the W&B client"
NO_ANSWER = "the W&B server did not answer in time"

_CLIENT = "telescope_pipeline.publish.wandb.client"
STAY_OFFLINE = ("offline", "dryrun", "disabled")
# What the client may read of the user's settings to reach the server; offline, nothing.
_CREDENTIALS = (
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_APP_URL",
    "WANDB_CONFIG_DIR",
    "WANDB_CREDENTIALS_FILE",
    "WANDB_ENTITY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_INSECURE_DISABLE_SSL",
)


def deliver(
    records: Sequence[RunRecord],
    *,
    project: str,
    entity: str | None,
    mode: Mode,
    root: Path,
    patience: Patience | None = None,
) -> Delivery:
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
    wanted = {record.id: Shipment.of(record, project, entity) for record in records}
    missing = [record for record in records if not complete_folder(root, wanted[record.id])]
    if missing:
        problem = _write(missing, project, entity, root, patience)
        if any(not complete_folder(root, wanted[record.id]) for record in missing):
            return Delivery("failed", problem)
    wish = os.environ.get("WANDB_MODE", "")
    if mode == "offline" or wish in STAY_OFFLINE:
        asked = "offline mode was asked for"
        reason = asked if mode == "offline" else f"WANDB_MODE={wish} is set in the environment"
        return Delivery("offline", reason, _places(wanted, {}))
    folders = {complete_folder(root, shipment): shipment for shipment in wanted.values()}
    if None in folders:
        reason = "a run folder changed while it was being published"
        return Delivery("offline", reason, _places(wanted, {}))
    return send({f: s for f, s in folders.items() if f is not None}, root=root, patience=patience)


def send(
    runs: Mapping[Path, Shipment], *, root: Path, patience: Patience | None = None
) -> Delivery:
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
    patience = patience or Patience()
    targets = {(shipment.project, shipment.entity) for shipment in runs.values()}
    if len(targets) != 1:
        raise ConfigurationError(
            f"got runs of {len(targets)} projects; expected runs of one: call it once for each"
        )
    ((project, entity),) = targets
    ids = [shipment.id for shipment in runs.values()]
    try:
        sending = patience.send + max(map(_weight, runs)) / patience.bytes_per_second
        limits = {"": patience.start, "ready": patience.connect, "connected": sending}
        request = {"project": project, "entity": entity, "folders": [str(path) for path in runs]}
        answers = ask(f"{_CLIENT}:upload", request, root, limits, online)
    except (OSError, ValueError) as error:
        return Delivery("offline", unable(WHO, error), _places(ids, {}))
    urls = {answer["id"]: answer["place"] for answer in answers if answer["event"] == "kept"}
    places = _places(ids, urls)
    found = next((a["entity"] for a in answers if a["event"] == "connected"), None)
    if len(urls) == len(runs):
        return Delivery("online", None, places, found)
    count = f"{len(urls)} of {len(runs)}"
    parts = {part: None for a in answers if a["event"] == "lacking" for part in a["parts"]}
    if parts:
        lacks = ", ".join(parts)
        reason = f"{count} runs were read back whole; of others the server does not show {lacks}"
    elif found is not None:
        reason = f"{count} runs reached the W&B server before it stopped answering"
    else:
        silent = answers[-1]["event"] == "timeout"
        reason = NO_ANSWER if silent else stopped(WHO, answers)
    return Delivery("offline", reason, places, found)


def online(scratch: str) -> dict[str, str]:
    """The environment of the client: none of the user's settings but those to reach the server."""
    return _settings(scratch, _CREDENTIALS)


def _offline(scratch: str) -> dict[str, str]:
    return _settings(scratch, ()) | {"WANDB_CONFIG_DIR": scratch, "WANDB_MODE": "offline"}


def _settings(scratch: str, keep: Sequence[str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WANDB_") or name in keep
    }
    return kept | {
        "WANDB_CACHE_DIR": scratch,
        "WANDB_DATA_DIR": scratch,
        "WANDB_DIR": scratch,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "TMPDIR": scratch,
        "PYTHONWARNINGS": "ignore",
    }


def _write(
    records: Sequence[RunRecord], project: str, entity: str | None, root: Path, patience: Patience
) -> str:
    """Write folders in the place of old ones; returns what went wrong, if anything did."""
    try:
        for record in records:
            remove_folders(root, record.id)
    except OSError as error:
        return f"old run folders could not be removed: {error.strerror}"
    request = {
        "root": str(root),
        "project": project,
        "entity": entity,
        "records": [record.to_json() for record in records],
    }
    limits = {"": patience.start, "ready": patience.run}
    try:
        return stopped(WHO, ask(f"{_CLIENT}:write", request, root, limits, _offline))
    except (OSError, ValueError, TypeError) as error:
        return unable(WHO, error)


def _places(ids: Iterable[str], urls: Mapping[str, str]) -> dict[str, Place]:
    return {run_id: Place(urls.get(run_id), folder_pattern(run_id)) for run_id in ids}


def _weight(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
