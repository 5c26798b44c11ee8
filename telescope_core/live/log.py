"""Streams what a lens sees to a tracker while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from telescope_core.errors import ConfigurationError
from telescope_core.live.alerts import AlertRule, Watch, output_spread
from telescope_core.live.background_run import BackgroundRun, report_failure
from telescope_core.trackers.null import NullRun
from telescope_core.trackers.protocol import AlertLevel, RunDescription, TrackedRun, Tracker

if TYPE_CHECKING:
    from telescope_core.lens import TelescopeLens

_BLOCKS_A_RECORD = 10
_BLOCKS_A_RECORD_OF_PREDICTIONS = 50

PREFIX = "telescope/"
"""What the names of all measures start with in a run of the user's own."""


@runtime_checkable
class OpenRun(Protocol):
    """A run that the user has open, as ``wandb.init`` returns it."""

    @property
    def define_metric(self) -> Callable[..., Any]:
        """Says over which axis a measure is drawn."""

    @property
    def log(self) -> Callable[..., Any]:
        """Adds a row to the history."""

    @property
    def alert(self) -> Callable[..., Any]:
        """Calls for attention."""


Target = Tracker | TrackedRun | OpenRun
"""Where records go."""


class LiveLog:
    """Logs the records of a lens; made by :meth:`telescope_core.TelescopeLens.log_to`.

    A context manager that ends the logging; without it the end of the program does.

    Args:
        run: Where records go.
        every: Steps from one record to the next.
        alerts: What to call for attention for.

    Attributes:
        record: The newest record; ``None`` before the first.
    """

    def __init__(self, run: BackgroundRun, every: int, alerts: Sequence[AlertRule]) -> None:
        self.record: dict[str, float] | None = None
        self._run = run
        self._every = every
        self._watches = [Watch(rule) for rule in alerts]
        self._closed = False

    @property
    def failed(self) -> bool:
        """Whether the tracker raised.  Nothing is logged then, but alerts still are."""
        return self._run.failed

    def after_step(self, lens: TelescopeLens) -> None:
        """Take a record of a lens right after a step, if it is time for one."""
        if not (self._closed or lens.steps % self._every):
            self.take(lens)

    def take(self, lens: TelescopeLens) -> None:
        """Take a record of a lens as it is now."""
        snapshot = lens.snapshot()
        record = snapshot.to_record()
        if snapshot.refusal is not None:
            self._run.alert("The lens follows less than it was asked to", snapshot.refusal, "WARN")
        self.record = record
        self._run.log(lens.steps, record)

        def spread(name: str) -> float:
            return output_spread(lens.predictions(name))

        for watch in self._watches:
            alert = watch.observe(record, spread)
            if alert is not None:
                self._run.alert(alert.title, alert.text, alert.level)

    def close(self, timeout: float = 10.0) -> bool:
        """End the logging: hand over what still waits, and complete a run that was started here.

        Returns:
            Whether the tracker took everything in these seconds.
        """
        self._closed = True
        return self._run.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_log(
    target: Target,
    description: RunDescription | None,
    *,
    every: int | None,
    alerts: Sequence[AlertRule],
    stride: int,
    sets: Sequence[str],
    has_smoother: bool,
    response: str | None,
) -> LiveLog:
    """Start logging; see :meth:`telescope_core.TelescopeLens.log_to`.

    ``every=None`` stands for :func:`default_interval`; stride, sets, whether it has a smoother
    and the response are those of the lens.

    Returns:
        The log, open until it is closed or the program ends.

    Raises:
        ConfigurationError: An argument does not fit the others or the lens.
    """
    interval = default_interval(stride, has_smoother) if every is None else every
    if type(interval) is not int or interval < 1:
        raise ConfigurationError(
            "every must be an integer of at least 1 (steps), or None for every "
            f"{default_interval(stride, has_smoother)} steps, got {every!r}"
        )
    for rule in alerts:
        rule.check_fits(sets, has_smoother, response)
    return LiveLog(_background(target, description), interval, alerts)


def default_interval(stride: int, has_smoother: bool) -> int:
    """Steps from one record to the next if nobody says.

    A record costs about as much as four steps of a lens without a smoother, and less than one step
    of a lens with it, so that these many blocks keep it at about one per cent.  It falls on the
    end of a block, where the lens evaluates all rows anyway.

    Returns:
        A multiple of ``stride``.
    """
    return stride * (_BLOCKS_A_RECORD if has_smoother else _BLOCKS_A_RECORD_OF_PREDICTIONS)


def _background(target: Target, description: RunDescription | None) -> BackgroundRun:
    if isinstance(target, Tracker):
        if description is None:
            raise ConfigurationError(
                f"log_to() was given a tracker ({type(target).__name__}) without a run; pass "
                "description=RunDescription(...), or a run that is already started"
            )
        return _started(target, description)
    if description is not None:
        raise ConfigurationError(
            f"log_to() was given a description and a {type(target).__name__}, which is no tracker; "
            "a description is for a run that is to be started"
        )
    if isinstance(target, TrackedRun):
        return BackgroundRun(target, finishes=False)
    if isinstance(target, OpenRun):
        return BackgroundRun(_Prefixed(target), finishes=False)
    raise ConfigurationError(
        f"log_to() was given a {type(target).__name__}; expected a tracker or a run of "
        "telescope_core.trackers, or a run of wandb"
    )


def _started(tracker: Tracker, description: RunDescription) -> BackgroundRun:
    try:
        run = tracker.start(description)
    except Exception as error:
        report_failure(error)
        run = NullRun()
    return BackgroundRun(run, finishes=True)


class _Prefixed(NullRun):
    """The user's own run, in which our measures have an axis and a section of their own.

    It is left open; the user finishes it.
    """

    def __init__(self, run: OpenRun) -> None:
        self._run = run
        self._axis_defined = False

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history; the user's own axis stays as it is."""
        axis = f"{PREFIX}step"
        if not self._axis_defined:
            self._run.define_metric(axis)
            self._run.define_metric(f"{PREFIX}*", step_metric=axis)
            self._axis_defined = True
        self._run.log({f"{PREFIX}{name}": value for name, value in record.items()} | {axis: step})

    def alert(self, title: str, text: str, level: AlertLevel) -> None:
        """Call for attention."""
        self._run.alert(title=title, text=text, level=level)
