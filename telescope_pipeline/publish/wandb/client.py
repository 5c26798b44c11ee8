"""What the client of Weights & Biases is told, in the process in which it runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from telescope_core.errors import MissingDependencyError, TrackerError
from telescope_core.trackers.protocol import CONTENT_KEY
from telescope_core.trackers.wandb import WandbTracker
from telescope_pipeline.publish.conversation import Request, Tell
from telescope_pipeline.publish.record import RunRecord, replay
from telescope_pipeline.publish.wandb.folders import (
    Shipment,
    mark_complete,
    run_file,
    run_folders,
)
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
            shipment = Shipment.of(record, project, entity)
            _wait_for_file(run_file(folder, record.id), shipment.rows)
            mark_complete(folder, shipment)
            tell("kept", id=record.id, place=str(folder))


def upload(request: Request, tell: Tell) -> None:
    """Send run folders, and say of each whether the server holds it and knows its lineage."""
    runs = {run["id"]: run for run in request["runs"]}
    connection = connect(request, tell)
    if connection is None:
        return
    import wandb.errors

    api, entity = connection
    place = f"{entity}/{request['project']}"
    held: dict[str, Any] = {}
    try:
        for run_id, run in runs.items():
            there = fetch_run(api, place, run_id)
            if _is_whole(there, run):
                held[run_id] = there
                tell("held", id=run_id)
            else:
                _forget(Path(run["folder"]), run_id, begun=there is not None)
        waiting = [run for run_id, run in runs.items() if run_id not in held]
        if waiting:
            _send(waiting, entity, request["project"], tell)
        for run in waiting:
            there = _await(api, place, run)
            if there is not None:
                held[run["id"]] = there
                tell("held", id=run["id"])
        for run_id, url in _linked(runs, held):
            tell("kept", id=run_id, place=url)
    except wandb.errors.CommError as error:
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


def _linked(runs: Request, held: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Tell the server which run used what another one logged; yields the runs it then knows."""
    logged = {_base(a): a for there in held.values() for a in there.logged_artifacts()}
    for run_id, run in runs.items():
        there = held.get(run_id)
        if there is None:
            continue
        known = {artifact.id for artifact in there.used_artifacts()} if run["uses"] else set()
        for name in run["uses"]:
            if name in logged and logged[name].id not in known:
                there.use_artifact(logged[name])
        if all(name in logged for name in run["uses"]):
            yield run_id, str(there.url)


def _base(artifact: Any) -> str:
    return str(artifact.name.partition(":")[0])


def _send(runs: Sequence[Request], entity: str, project: str, tell: Tell) -> None:
    command = [sys.executable, "-P", "-m", "wandb", "sync"]
    command += ["--entity", entity, "--project", project, *(run["folder"] for run in runs)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    markers = {run["id"]: _mark(Path(run["folder"]), run["id"], "synced") for run in runs}
    while markers:
        ended = process.poll() is not None
        for run_id in [run_id for run_id, marker in markers.items() if marker.exists()]:
            del markers[run_id]
            tell("sent", id=run_id)
        if ended:
            return
        time.sleep(_PAUSE)
    process.wait()


def _forget(folder: Path, run_id: str, begun: bool) -> None:
    """Remove the client's belief that a run was sent; how far it got stays, if the run is there."""
    _mark(folder, run_id, "synced").unlink(missing_ok=True)
    if not begun:
        _mark(folder, run_id, "syncstate").unlink(missing_ok=True)


def _mark(folder: Path, run_id: str, kind: str) -> Path:
    path = run_file(folder, run_id)
    return path.with_name(f"{path.name}.{kind}")


def _await(api: Any, place: str, run: Request) -> Any:
    """Look for a run until the server shows it whole, for a few seconds."""
    until = time.monotonic() + _SECONDS
    while not _is_whole(there := fetch_run(api, place, run["id"]), run):
        if time.monotonic() > until:
            return None
        time.sleep(_SECONDS / 10)
    return there


def _is_whole(there: Any, run: Request) -> bool:
    """Compare what the server holds, if anything, with what was published."""
    if there is None or there.state != "finished" or there.config.get(CONTENT_KEY) != run["digest"]:
        return False
    steps = {row["_step"] for row in there.scan_history(use_cache=False)}
    kept = {_base(artifact) for artifact in there.logged_artifacts()}
    return len(steps) == run["rows"] and set(run["artifacts"]) <= kept
