"""The process in which the client of a tracker runs.

``python -m telescope_pipeline.publish.worker COMMAND`` reads a request from standard input as JSON
and answers as :mod:`~telescope_pipeline.publish.conversation` describes.  Whatever the client does
to it, the process that started it goes on.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.trackers.protocol import RunStore
from telescope_core.trackers.registry import open_tracker
from telescope_pipeline.publish.conversation import Request, Tell
from telescope_pipeline.publish.record import RunRecord, replay


def keep(request: Request, tell: Tell) -> None:
    """Tell a tracker the runs that it does not hold yet."""
    name = request["tracker"]
    with open_tracker(name, **request["options"]) as tracker:
        tell("ready")
        for record in map(RunRecord.from_json, request["records"]):
            if not isinstance(tracker, RunStore):
                # Nobody to ask but our own notes.
                if record.id not in request["known"]:
                    replay(record, tracker)
                tell("kept", id=record.id, place=None)
                continue
            content = record.digest()
            if not tracker.holds(record.id, content):
                if remove := getattr(tracker, "remove", None):
                    remove(record.id)
                replay(record, tracker)
                if not tracker.holds(record.id, content):
                    reason = f"the tracker {name} does not hold a run that it was told"
                    return tell("stopped", reason=reason)
            tell("kept", id=record.id, place=tracker.place(record.id))


def main() -> int:
    """Carry out one command; the exit code is 0 if nothing was raised."""
    # Standard output is for answers; whatever else is printed goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: str, **details: Any) -> None:
        answers.write(json.dumps({"event": event, **details}) + "\n")
        answers.flush()

    module, _, command = sys.argv[1].partition(":")
    try:
        getattr(import_module(module), command)(json.load(sys.stdin), tell)
    except (MissingDependencyError, ConfigurationError) as error:
        # Our own words, that is without anything a client may have put into them.
        tell("stopped", reason=str(error))
        return 1
    except Exception as error:
        tell("stopped", reason=None, detail=f"{type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
