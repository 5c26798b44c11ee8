"""Progress of a sweep: one bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from telescope_pipeline.executors.jobs import Watcher

_LOG = logging.getLogger(__name__)

# Seconds between two lines of a log.
_INTERVAL = 30.0
# So much of a sweep must be done before what is left can be told from it.
_TELLING = 0.02


@contextmanager
def watch(title: str, total: int, done: int = 0) -> Iterator[Watcher]:
    """Show how a sweep is doing while the block runs.

    Args:
        title: What is going on, e.g. ``"train my_case"``.
        total: Members in all.
        done: Members finished before.

    Yields:
        The watcher to give to an executor.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = _Lines(title, total, done)
        with lines.now_and_then():
            yield lines
        _LOG.info("%s: %s", title, lines.summary())
        return
    bars = Progress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )
    with bars:
        yield _Bar(bars, title, total, done)


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """Show on a terminal that something is going on; elsewhere show nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(title):
        yield


def duration(seconds: float) -> str:
    """A time as one says it: ``"40 s"``, ``"3 min"``, ``"1 h 20 min"``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


class _Tally:
    """How far a sweep is, counting also what is done of members in the works."""

    def __init__(self, title: str, total: int, done: int):
        self.title = title
        self.total = total
        self.before = self.done = done
        self.parts: dict[str, float] = {}
        self.since = time.monotonic()

    def started(self, name: str) -> None:
        self.parts[name] = 0.0

    def advanced(self, name: str, done: int, total: int) -> None:
        if name in self.parts:
            self.parts[name] = done / max(total, 1)

    def lost(self, name: str) -> None:
        self.parts.pop(name, None)

    def finished(self, name: str) -> None:
        self.parts.pop(name, None)
        self.done += 1

    @property
    def completed(self) -> float:
        """Members done, with parts of those in the works."""
        return self.done + sum(list(self.parts.values()))

    def left(self) -> str:
        """What is left, if what was done tells it."""
        now = self.completed - self.before
        if now < _TELLING * (self.total - self.before):
            return ""
        seconds = (time.monotonic() - self.since) * (self.total - self.completed) / now
        return f"about {duration(seconds)} left"


class _Bar(_Tally):
    """One bar for the whole sweep."""

    def __init__(self, bars: Progress, title: str, total: int, done: int):
        super().__init__(title, total, done)
        self._bars = bars
        self._task = bars.add_task(title, total=total, completed=done, count="", left="")
        self._show()

    def advanced(self, name: str, done: int, total: int) -> None:
        super().advanced(name, done, total)
        self._show()

    def lost(self, name: str) -> None:
        super().lost(name)
        text = f"{name}: its worker died, running it again"
        self._bars.console.print(text, style="yellow", highlight=False)

    def finished(self, name: str) -> None:
        super().finished(name)
        self._show()

    def _show(self) -> None:
        count = f"{self.done}/{self.total}"
        left = self.left() if self.done < self.total else ""
        self._bars.update(self._task, completed=self.completed, count=count, left=left)


class _Lines(_Tally):
    """A log line now and then."""

    def lost(self, name: str) -> None:
        super().lost(name)
        _LOG.warning("%s: %s: its worker died, running it again", self.title, name)

    @contextmanager
    def now_and_then(self) -> Iterator[None]:
        """Write the lines while the block runs; by a thread, since members may be silent."""
        over = threading.Event()

        def write() -> None:
            while not over.wait(_INTERVAL):
                _LOG.info("%s: %s", self.title, self.state())

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        try:
            yield
        finally:
            over.set()
            writer.join()

    def state(self) -> str:
        """How far the sweep is, and how long it may still take."""
        left = self.left()
        count = f"{self.done}/{self.total} members done, {len(self.parts)} in the works"
        return f"{count}, {left}" if left else count

    def summary(self) -> str:
        """What the sweep took."""
        new = self.done - self.before
        count = f"{new} members" if new != 1 else "1 member"
        return f"{count} in {duration(time.monotonic() - self.since)}"
