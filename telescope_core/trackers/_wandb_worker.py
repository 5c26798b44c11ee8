"""The process in which the client of Weights & Biases runs.

``python -m telescope_core.trackers._wandb_worker write|upload|report`` reads a request from
standard input as JSON and answers with one line of JSON per thing done.  Whatever happens to it,
the process that started it goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from telescope_core.errors import MissingDependencyError, TrackerError
from telescope_core.trackers._answers import Tell, open_answers
from telescope_core.trackers._wandb_api import connect, fetch_run
from telescope_core.trackers._wandb_log import check_run_file
from telescope_core.trackers._wandb_report import write_report
from telescope_core.trackers.record import CONTENT_KEY, RunRecord, replay
from telescope_core.trackers.wandb_folders import Shipment, mark_complete, run_file, run_folders
from telescope_core.trackers.weights_and_biases import WandbTracker, history_rows

_FLUSH_SECONDS = 5.0
_READ_BACK_SECONDS = 5.0
_PAUSE = 0.1


def write(request: dict[str, Any], tell: Tell) -> None:
    """Write runs offline, read each back and mark its folder as complete."""
    root = Path(request["root"])
    with WandbTracker(request["project"], request["entity"], "offline", root) as tracker:
        tell("ready")
        for item in request["runs"]:
            record = RunRecord.from_json(item["record"])
            run_id = record.description.id
            replay(record, tracker)
            (folder,) = run_folders(root, run_id)
            _wait_for_file(run_file(folder, run_id), history_rows(record))
            mark_complete(folder, item["content"], Shipment.from_json(item["shipment"]))
            tell("written", id=run_id)


def _wait_for_file(path: Path, rows: int) -> None:
    """Read a run's file until it is whole: the client says it is done a little early."""
    until = time.monotonic() + _FLUSH_SECONDS
    while True:
        try:
            return check_run_file(path, rows)
        except TrackerError:
            if time.monotonic() > until:
                raise
        time.sleep(_PAUSE / 5)


def upload(request: dict[str, Any], tell: Tell) -> None:
    """Send run folders, and say of each whether the server holds it and knows its lineage."""
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError("the package wandb is not installed") from error
    tell("ready")
    project, runs = request["project"], request["runs"]
    connection = connect(request, tell)
    if connection is None:
        return
    api, entity = connection
    place = f"{entity}/{project}"
    held: dict[str, Any] = {}
    try:
        for run in runs:
            there = fetch_run(api, place, run["id"])
            if there is not None and _is_whole(there, run):
                held[run["id"]] = there
                tell("held", id=run["id"])
            else:
                _forget(Path(run["folder"]), run["id"], begun=there is not None)
        waiting = [run for run in runs if run["id"] not in held]
        if waiting:
            _send(waiting, entity, project, tell)
        for run in waiting:
            there = _await(api, place, run)
            if there is not None:
                held[run["id"]] = there
                tell("held", id=run["id"])
        for run_id, url in _linked(runs, held):
            tell("synced", id=run_id, url=url)
    except wandb.errors.CommError as error:
        tell("lost", detail=str(error))


def report(request: dict[str, Any], tell: Tell) -> None:
    """Save a report, and say whether the server shows it back."""
    try:
        import wandb.errors
    except ImportError as error:
        raise MissingDependencyError("the package wandb is not installed") from error
    tell("ready")
    connection = connect(request, tell)
    if connection is None:
        return
    try:
        write_report(*connection, request, tell)
    except (wandb.errors.CommError, RuntimeError, ValueError) as error:
        tell("lost", detail=f"{type(error).__name__}: {error}")


def _linked(runs: Sequence[dict[str, Any]], held: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Tell the server which run used what another one logged; yields the runs it then knows."""
    logged = {_base(a): a for there in held.values() for a in there.logged_artifacts()}
    for run in runs:
        there = held.get(run["id"])
        if there is None:
            continue
        known = {artifact.id for artifact in there.used_artifacts()} if run["uses"] else set()
        for name in run["uses"]:
            if name in logged and logged[name].id not in known:
                there.use_artifact(logged[name])
        if all(name in logged for name in run["uses"]):
            yield run["id"], str(there.url)


def _base(artifact: Any) -> str:
    return str(artifact.name.partition(":")[0])


def _send(runs: Sequence[dict[str, Any]], entity: str, project: str, tell: Tell) -> None:
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


def _await(api: Any, place: str, run: dict[str, Any]) -> Any:
    """Look for a run until the server shows it whole, for a few seconds."""
    until = time.monotonic() + _READ_BACK_SECONDS
    while True:
        there = fetch_run(api, place, run["id"])
        if there is not None and _is_whole(there, run):
            return there
        if time.monotonic() > until:
            return None
        time.sleep(_READ_BACK_SECONDS / 10)


def _is_whole(there: Any, run: dict[str, Any]) -> bool:
    """Compare what the server holds with what was published."""
    if there.state != "finished" or there.config.get(CONTENT_KEY) != run["digest"]:
        return False
    steps = {row["_step"] for row in there.scan_history(use_cache=False)}
    kept = {_base(artifact) for artifact in there.logged_artifacts()}
    return len(steps) == run["rows"] and set(run["artifacts"]) <= kept


def main() -> int:
    """Run one command; the exit code is 0 if it could be carried out."""
    tell = open_answers()
    commands = {"write": write, "upload": upload, "report": report}
    try:
        commands[sys.argv[1]](json.load(sys.stdin), tell)
    except MissingDependencyError as error:
        tell("failed", why="missing", detail=str(error))
        return 1
    except (TrackerError, OSError) as error:
        tell("failed", why="client", detail=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
