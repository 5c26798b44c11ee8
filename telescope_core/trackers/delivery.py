"""Delivering finished runs to any tracker, without being at its mercy.

The tracker runs in a process of its own, watched by the clock: it may fail, crash or hang, and the
outcome says so.  Weights & Biases has a delivery of its own, which knows more about it.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from telescope_core.trackers import _worker
from telescope_core.trackers._containment import end_family, redacted
from telescope_core.trackers.record import RunRecord

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long a tracker may take, in seconds.

    Attributes:
        start: To be loaded and opened.
        run: For one more run, besides the time its files need.
        bytes_per_second: The slowest copying that is waited for.
    """

    start: float = 45.0
    run: float = 20.0
    bytes_per_second: float = 250_000.0


@dataclass(frozen=True)
class Delivery:
    """What became of the runs.

    Attributes:
        places: Where the tracker keeps each run that it holds, by run id; None where it does not
            say.
        new: How many of them were not there before.
        reason: Why some are missing; None if none is.
    """

    places: Mapping[str, str | None] = field(default_factory=dict)
    new: int = 0
    reason: str | None = None


def deliver_to(
    tracker: str,
    options: Mapping[str, Any],
    records: Sequence[RunRecord],
    *,
    root: Path,
    known: Collection[str] = (),
    patience: Patience | None = None,
) -> Delivery:
    """Deliver runs, each of them once.

    A tracker that can look up its runs (:class:`~telescope_core.trackers.RunStore`) is asked
    whether it holds a run with the same id and content, before and after it is told one.

    Args:
        tracker: Its name; see :func:`~telescope_core.trackers.open_tracker`.
        options: JSON-able; what it takes.
        records: The runs.
        root: The folder it works in.
        known: Ids of runs that a tracker without look-up was told before.
        patience: How long to wait for it.

    Returns:
        Where the runs are.  Nothing that the tracker does raises an error.
    """
    patience = patience or Patience()
    request = {
        "tracker": tracker,
        "options": dict(options),
        "records": [record.to_json() for record in records],
        "known": sorted(known),
    }
    limit = patience.start + patience.run * len(records)
    try:
        limit += sum(map(_weight, records)) / patience.bytes_per_second
        answers, ending = _ask(json.dumps(request), root, limit)
    except (OSError, ValueError) as error:
        _warn(tracker, f"{type(error).__name__}: {error}")
        return Delivery(reason=f"the tracker {tracker} could not be run")
    there = {a["id"]: a for a in answers if a["event"] == "told"}
    places = {run_id: answer["place"] for run_id, answer in there.items()}
    new = sum(answer["new"] for answer in there.values())
    if len(there) == len(records):
        return Delivery(places, new)
    return Delivery(places, new, _problem(tracker, answers, ending))


def _ask(request: str, root: Path, limit: float) -> tuple[list[dict[str, Any]], str]:
    command = [sys.executable, "-P", "-m", _worker.__name__]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=root,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate(request, timeout=limit)
            ending = _ending(process.returncode)
        except subprocess.TimeoutExpired:
            end_family(process)
            out, _ = process.communicate()
            ending = f"did not end within {limit:.0f} s and was ended"
    lines = [line for line in out.splitlines() if line.endswith("}")]
    return [json.loads(line) for line in lines], ending


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}"
    return "ended before its work was done"


def _problem(tracker: str, answers: Sequence[dict[str, Any]], ending: str) -> str:
    for answer in answers:
        if answer["event"] == "refused":
            return str(answer["detail"])
        if answer["event"] == "failed":
            _warn(tracker, answer["detail"])
            return f"the tracker {tracker} failed"
        if answer["event"] == "lost":
            return f"the tracker {tracker} does not hold a run that it was told"
    return f"the tracker {tracker} {ending}"


def _warn(tracker: str, detail: str) -> None:
    _LOG.warning("publish to %s: %s", tracker, redacted(detail))


def _weight(record: RunRecord) -> int:
    files = [path for artifact in record.artifacts for path in artifact.files.values()]
    return sum(path.stat().st_size for path in files)
