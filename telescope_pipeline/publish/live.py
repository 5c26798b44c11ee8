"""Showing a member at the tracker while it trains.

The run is the one that publishing completes: it has the same id, since what decides a member's
result is known before it is trained.  Whatever the tracker does, training goes on and its result
is the same.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import MissingDependencyError, TrackerError
from telescope_core.live.background_run import BackgroundRun
from telescope_core.trackers.null import NullRun
from telescope_core.trackers.protocol import RunDescription, RunStore, TrackedRun
from telescope_core.trackers.registry import open_tracker
from telescope_pipeline.publish.naming import Setting, described_member
from telescope_pipeline.publish.options import tracker_options
from telescope_pipeline.publish.wandb.sending import STAY_OFFLINE

if TYPE_CHECKING:
    from telescope_pipeline.contract import Member, Recorded
    from telescope_pipeline.parameters.model import Parameters


@dataclass(frozen=True)
class LiveRun:
    """A member's run at a tracker, to be told rows while the member trains.

    Attributes:
        tracker: The tracker's name.
        options: What it is opened with.
        about: What the run is.
    """

    tracker: str
    options: Mapping[str, Any]
    about: RunDescription

    @contextmanager
    def rows(self) -> Iterator[Recorded]:
        """Start the run, as far as the tracker can, and take rows in order; each step once."""
        told: set[int] = set()
        run = _Started(self)
        background = BackgroundRun(run, finishes=True)
        # Starts it.
        background.log(0, {})

        def recorded(row: Mapping[str, int | float]) -> None:
            step = int(row["step"])
            if step not in told:
                told.add(step)
                background.log(step, {name: float(value) for name, value in row.items()})

        try:
            yield recorded
            run.whole = True
        finally:
            background.close()


class _Started(NullRun):
    """Starts a run when it is told something first; it lives in the thread that tells it."""

    def __init__(self, live: LiveRun) -> None:
        self.whole = False
        self._live = live
        self._run: TrackedRun | None = None
        self._held = ExitStack()

    def log(self, step: int, record: Mapping[str, float]) -> None:
        if self._run is None:
            self._run = self._start()
        if record:
            self._run.log(step, record)

    def finish(self) -> None:
        with self._held:
            run, self._run = self._run, None
            # One that cannot be gone on with stays open, so that publishing may replace it.
            over = self.whole and self._live.tracker == "wandb"
            if end := getattr(run, "finish" if over else "abandon", None):
                end()

    def _start(self) -> TrackedRun:
        options = dict(self._live.options)
        if self._live.tracker == "wandb":
            folder = tempfile.TemporaryDirectory(prefix="ts-", ignore_cleanup_errors=True)
            options["directory"] = self._held.enter_context(folder)
        tracker = open_tracker(self._live.tracker, **options)
        if self._live.tracker != "wandb" and not isinstance(tracker, RunStore):
            raise TrackerError(f"the tracker {self._live.tracker} cannot take the same run twice")
        return tracker.start(self._live.about)


def live_run(
    case_name: str, parameters: Parameters, member: Member, key: str, root: Path
) -> LiveRun | None:
    """Say where a member is shown while it trains.

    Args:
        case_name: Its case.
        parameters: The validated parameters.
        member: The member.
        key: Under which it is trained.
        root: The project's folder.

    Returns:
        Its run; None if nothing is to be shown.
    """
    tracking = parameters.tracking
    if not tracking.live or tracking.tracker == "none" or tracking.mode == "disabled":
        return None
    setting = Setting(member.group, member.seed, member.values)
    about = described_member(case_name, parameters, setting, key)
    if tracking.tracker != "wandb":
        try:
            return LiveRun(tracking.tracker, tracker_options(tracking, root), about)
        except MissingDependencyError:
            return None
    if tracking.mode == "offline" or os.environ.get("WANDB_MODE", "") in STAY_OFFLINE:
        return None
    options = {"project": tracking.project, "entity": tracking.entity}
    return LiveRun("wandb", {**options, "mode": "online", "resume": True}, about)
