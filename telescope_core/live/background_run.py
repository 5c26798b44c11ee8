"""Tells a tracker things from a thread of its own, so that nobody waits for it."""

from __future__ import annotations

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from telescope_core.trackers._client import redacted
from telescope_core.trackers.protocol import AlertingRun, AlertLevel, TrackedRun

_LOG = logging.getLogger("telescope_core.live")

_CAPACITY = 1024
_PATIENCE = 10.0


class BackgroundRun:
    """A run that takes no time and never raises.

    One thread hands over what it is given, in order.  The first error of the tracker is reported
    through :mod:`logging` and ends the logging; so much as ``capacity`` rows wait for a slow
    tracker, and what comes on top is left out.

    Args:
        run: The run.
        finishes: Whether the run is to be completed at the end.
        capacity: Rows that may wait.

    Attributes:
        failed: Whether the tracker raised, so that nothing is logged any more.
        left_out: How many rows and alerts a slow tracker did not get.
    """

    def __init__(self, run: TrackedRun, *, finishes: bool, capacity: int = _CAPACITY) -> None:
        self._run = run
        self._finishes = finishes
        self.failed = False
        self.left_out = 0
        self._closed = False
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(capacity)
        # At exit the interpreter waits for threads that are not daemons, however long they take.
        self._thread = threading.Thread(target=self._work, name="telescope-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history, soon."""
        self._soon(lambda: self._run.log(step, record))

    def alert(self, title: str, text: str, level: AlertLevel) -> None:
        """Call for attention: through the tracker if it can, through :mod:`logging` otherwise."""
        run = self._run
        through_logging = partial(
            _LOG.log, logging.getLevelNamesMapping()[level], "%s: %s", title, text
        )
        if not isinstance(run, AlertingRun) or self.failed or self._closed:
            through_logging()
            return

        def tell() -> None:
            try:
                run.alert(title, text, level)
            except BaseException:
                through_logging()
                raise

        self._soon(tell)

    def close(self, timeout: float = _PATIENCE) -> bool:
        """Hand over what still waits and complete the run, if that is ours to do.

        Args:
            timeout: Seconds that the tracker has for it; afterwards it is left to itself.

        Returns:
            Whether the tracker took everything.
        """
        if not self._closed:
            self._closed = True
            atexit.unregister(self.close)
            until = time.monotonic() + timeout
            with suppress(queue.Full):
                self._waiting.put(None, timeout=timeout)
                self._thread.join(max(0.0, until - time.monotonic()))
            if self._thread.is_alive():
                _LOG.warning(
                    "the tracker did not take everything within %g s; about %d entries are lost",
                    timeout,
                    self._waiting.qsize(),
                )
        return not (self.failed or self.left_out or self._thread.is_alive())

    def _soon(self, task: Callable[[], None]) -> None:
        if self.failed or self._closed:
            return
        try:
            self._waiting.put_nowait(task)
        except queue.Full:
            self.left_out += 1
            if self.left_out == 1:
                _LOG.warning(
                    "the tracker is slower than training: %d rows wait for it, further ones are "
                    "left out; log less often with every=...",
                    self._waiting.maxsize,
                )

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            self._try(task)
        if self._finishes:
            self._try(self._run.finish)

    def _try(self, task: Callable[[], None]) -> None:
        if self.failed:
            return
        # Also what is no Exception: in this thread it would end the logging without a word.
        try:
            task()
        except BaseException as error:
            self.failed = True
            report_failure(error)


def report_failure(error: BaseException) -> None:
    """Say through :mod:`logging` that a tracker raised and that training goes on without it."""
    detail = redacted(f"{type(error).__name__}: {error}")
    _LOG.warning("the tracker failed (%s); nothing more is logged, training goes on", detail)
