"""Progress of a sweep: bars on a terminal, a line per finished member elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from telescope_pipeline.executors.jobs import Watcher

_LOG = logging.getLogger(__name__)


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
        yield _Lines(title, total, done)
        return
    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bars:
        yield _Bars(bars, title, total, done)


@contextmanager
def spinner(title: str) -> Iterator[None]:
    """Show on a terminal that something is going on; elsewhere show nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(title):
        yield


class _Bars:
    """A bar for the sweep and one for each member in the works."""

    def __init__(self, bars: Progress, title: str, total: int, done: int):
        self._bars = bars
        self._all = bars.add_task(f"[bold]{title}", total=total, completed=done)
        self._members: dict[str, TaskID] = {}

    def started(self, name: str) -> None:
        self._drop(name)
        self._members[name] = self._bars.add_task(f"  {name}", total=None)

    def advanced(self, name: str, done: int, total: int) -> None:
        if name in self._members:
            self._bars.update(self._members[name], completed=done, total=total)

    def lost(self, name: str) -> None:
        self._drop(name)
        self._bars.console.print(
            f"{name}: its worker died, running it again", style="yellow", highlight=False
        )

    def finished(self, name: str) -> None:
        self._drop(name)
        self._bars.advance(self._all)

    def _drop(self, name: str) -> None:
        if name in self._members:
            self._bars.remove_task(self._members.pop(name))


class _Lines:
    """A log line per finished member."""

    def __init__(self, title: str, total: int, done: int):
        self._title = title
        self._total = total
        self._done = done
        self._since: dict[str, float] = {}

    def started(self, name: str) -> None:
        self._since[name] = time.monotonic()

    def advanced(self, name: str, done: int, total: int) -> None:
        pass

    def lost(self, name: str) -> None:
        _LOG.warning("%s: %s: its worker died, running it again", self._title, name)

    def finished(self, name: str) -> None:
        self._done += 1
        seconds = time.monotonic() - self._since.get(name, time.monotonic())
        count = f"{self._done}/{self._total}"
        _LOG.info("%s: %s finished in %.1f s (%s)", self._title, name, seconds, count)
