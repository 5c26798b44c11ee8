"""What the client of Weights & Biases is told, in the process in which it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from telescope_core.errors import MissingDependencyError, TrackerError
from telescope_core.trackers.wandb import WandbTracker
from telescope_pipeline.publish.conversation import Request, Tell
from telescope_pipeline.publish.record import RunRecord, replay
from telescope_pipeline.publish.wandb.folders import (
    Shipment,
    mark_complete,
    record_in,
    rows_of,
    run_file,
    run_folders,
)
from telescope_pipeline.publish.wandb.parts import Lacking, base_name, lacking
from telescope_pipeline.publish.wandb.presets import Presets
from telescope_pipeline.publish.wandb.run_file import check_run_file
from telescope_pipeline.publish.wandb.sending import NO_ANSWER

_ANSWER_SECONDS = 3
# For the client to flush a file, and for the server to show a run.
_SECONDS = 5.0
_PAUSE = 0.1


def write(request: Request, tell: Tell) -> None:
    """Write runs offline, read each back and mark its folder as complete."""
    root = Path(request["root"])
    project, entity = request["project"], request["entity"]
    with WandbTracker(project, entity, "offline", root) as tracker:
        tell("ready")
        for record in map(RunRecord.from_json, request["records"]):
            replay(record, tracker)
            (folder,) = run_folders(root, record.id)
            _wait_for_file(run_file(folder, record.id), rows_of(record))
            mark_complete(folder, Shipment.of(record, project, entity), record)
            tell("kept", id=record.id, place=str(folder))


def upload(request: Request, tell: Tell) -> None:
    """Complete runs at the server from their folders, and say of each whether it is whole there."""
    connection = connect(request, tell)
    if connection is None:
        return
    import wandb.errors

    api, entity = connection
    project = request["project"]
    records = [record_in(Path(folder)) for folder in request["folders"]]
    try:
        presets = Presets(api, entity, tell)
        held: dict[str, Any] = {}
        with WandbTracker(project, entity, "online", os.environ["WANDB_DIR"], resume=True) as t:
            for record in records:
                there = _completed(api, f"{entity}/{project}", record, t, presets, tell)
                if there is not None:
                    held[record.id] = there
        for run_id, url in _linked(records, held):
            tell("kept", id=run_id, place=url)
    except (wandb.errors.CommError, TrackerError) as error:
        tell("lost", detail=str(error))


def connect(request: Request, tell: Tell) -> tuple[Any, str] | None:
    """Load the client and ask for the server.

    Returns:
        The public API and the entity in use; None, and told why, if the server is of no use.

    Raises:
        MissingDependencyError: If wandb is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError("the package wandb is not installed") from error
    tell("ready")
    try:
        api = wandb.Api(timeout=_ANSWER_SECONDS)
        entity = str(request["entity"] or api.default_entity)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        tell("stopped", reason=_why(error), detail=detail)
        return None
    tell("connected", entity=entity)
    return api, entity


def fetch_run(api: Any, place: str, run_id: str) -> Any:
    """Ask the server for a run.

    Returns:
        The client's run; None if the server has none.

    Raises:
        wandb.errors.CommError: If it does not answer.
    """
    import wandb.errors

    api.flush()
    try:
        return api.run(f"{place}/{run_id}")
    except wandb.errors.CommError as error:
        if "Could not find" in str(error):
            return None
        raise


def _why(error: Exception) -> str:
    """Tell a missing key, a refused key and a silent server apart."""
    import wandb.errors

    text = str(error)
    if isinstance(error, wandb.errors.UsageError):
        return "no W&B key is configured"
    if "did not respond in time" in text:
        return NO_ANSWER  # Also said as an authentication error, since the key was not seen.
    signs = ("error 401", "error 403", "API_KEY invalid", "API key")
    if isinstance(error, wandb.errors.AuthenticationError) or any(sign in text for sign in signs):
        return "the W&B server refused the key"
    return NO_ANSWER


def _wait_for_file(path: Path, rows: int) -> None:
    """Read a run's file until it is whole: the client says it is done a little early."""
    until = time.monotonic() + _SECONDS
    while True:
        try:
            return check_run_file(path, rows)
        except TrackerError:
            if time.monotonic() > until:
                raise
        time.sleep(_PAUSE / 5)


def _linked(records: Sequence[RunRecord], held: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Tell the server which run used what another one logged; yields the runs it then knows."""
    logged = {
        base_name(artifact): artifact
        for record in records
        if record.artifacts and record.id in held
        for artifact in held[record.id].logged_artifacts()
    }
    for record in records:
        there = held.get(record.id)
        if there is None:
            continue
        known = {artifact.id for artifact in there.used_artifacts()} if record.uses else set()
        for name in record.uses:
            if name in logged and logged[name].id not in known:
                there.use_artifact(logged[name])
        if all(name in logged for name in record.uses):
            yield record.id, str(there.url)


def _completed(
    api: Any, place: str, record: RunRecord, tracker: WandbTracker, presets: Presets, tell: Tell
) -> Any:
    """Send what the server lacks of a run; the run as it then shows it, or None if not whole."""
    there = fetch_run(api, place, record.id)
    lacks = lacking(there, record)
    drawn = presets.of([chart for chart in record.charts if chart.key in lacks.charts])
    lacks = presets.expected(lacks)
    if lacks and not lacks.differs:
        _send(record, lacks, tracker, drawn)
        tell("sent", id=record.id)
        until = time.monotonic() + _SECONDS
        while True:
            there = fetch_run(api, place, record.id)
            lacks = presets.expected(lacking(there, record))
            if not lacks or time.monotonic() > until:
                break
            time.sleep(_PAUSE)
    if lacks:
        tell("lacking", id=record.id, parts=lacks.words())
        return None
    tell("held", id=record.id)
    return there


def _send(
    record: RunRecord, lacks: Lacking, tracker: WandbTracker, presets: dict[str, str]
) -> None:
    run = tracker.start(record.described())
    if lacks.history:
        # The run leaves out the rows that the server has.
        for step, values in record.history:
            run.log(step, values)
    if record.summary:
        run.summarize(record.summary)
    for picture in record.pictures:
        if picture.key in lacks.shown:
            run.image(picture.key, picture.path, picture.caption)
    for table in record.tables:
        if table.key in lacks.shown:
            run.table(table.key, table.columns, table.rows)
    for chart in record.charts:
        if chart.key in presets:
            run.chart(chart.key, presets[chart.key], chart.columns, chart.rows)
    for artifact in record.kept():
        if artifact.name in lacks.artifacts:
            run.artifact(artifact)
    run.finish()
