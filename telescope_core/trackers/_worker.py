"""The process in which a tracker is told runs.

``python -m telescope_core.trackers._worker`` reads a request from standard input as JSON and
answers with one line of JSON per thing done.  Whatever the tracker's client does to it, the process
that started it goes on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from telescope_core.errors import ConfigurationError, MissingDependencyError, TelescopeError
from telescope_core.trackers._answers import Tell, open_answers
from telescope_core.trackers.protocol import RunStore, Tracker
from telescope_core.trackers.record import RunRecord, replay
from telescope_core.trackers.registry import open_tracker


def write(request: Mapping[str, Any], tell: Tell) -> None:
    """Tell a tracker the runs that it does not hold yet."""
    with open_tracker(request["tracker"], **request["options"]) as tracker:
        tell("ready")
        for data in request["records"]:
            _write_one(RunRecord.from_json(data), tracker, request["known"], tell)


def _write_one(record: RunRecord, tracker: Tracker, known: Mapping[str, Any], tell: Tell) -> None:
    run_id, content = record.description.id, record.digest()
    if not isinstance(tracker, RunStore):
        # Nobody to ask but our own notes.
        if run_id not in known:
            replay(record, tracker)
        tell("told", id=run_id, place=None, new=run_id not in known)
        return
    new = not tracker.holds(run_id, content)
    if new:
        replay(record, tracker)
        if not tracker.holds(run_id, content):
            tell("lost", id=run_id)
            return
    tell("told", id=run_id, place=tracker.place(run_id), new=new)


def main() -> int:
    """Answer one request; the exit code is 0 if the tracker raised nothing."""
    tell = open_answers()
    try:
        write(json.load(sys.stdin), tell)
    except (MissingDependencyError, ConfigurationError) as error:
        # Our own words, that is without anything a client may have put into them.
        tell("refused", detail=str(error))
        return 1
    except Exception as error:
        kind = "" if isinstance(error, TelescopeError) else f"{type(error).__name__}: "
        tell("failed", detail=f"{kind}{error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
