"""What the trackers have in common: runs that end once, and errors of one kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from telescope_core.errors import MissingDependencyError, TrackerError
from telescope_core.trackers.protocol import RunDescription


class BaseRun(ABC):
    """A run that is open until it is finished or broken off.

    Attributes:
        about: What the run is.
        ended: Whether it is over.
    """

    tool: str

    def __init__(self, about: RunDescription) -> None:
        self.about = about
        self.ended = False

    def finish(self) -> None:
        """Complete the run; again, it does nothing."""
        self._close(complete=True)

    def abandon(self) -> None:
        """Let go of the run and do not call it complete."""
        self._close(complete=False)

    @abstractmethod
    def _end(self, complete: bool) -> None:
        """Write what is left to write, and free what is held."""

    def _close(self, complete: bool) -> None:
        if self.ended:
            return
        try:
            with told(self.tool, f"run {self.about.id} could not be finished"):
                self._end(complete)
        finally:
            self.ended = True

    def _numbers(self, record: Mapping[str, float]) -> dict[str, float]:
        axis = self.about.step_key
        return {name: float(value) for name, value in record.items() if name != axis}

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        if self.ended:
            message = f"{self.tool}: {what}, since run {self.about.id} is over; start another run"
            raise TrackerError(message)
        with told(self.tool, what):
            yield


RunT = TypeVar("RunT", bound=BaseRun)


class Session(ABC, Generic[RunT]):
    """A tracker, as far as it is the same whatever keeps the runs.

    ``with`` finishes the runs that are still open, or breaks them off if an error ends the block.
    """

    tool: str

    def __init__(self) -> None:
        self._runs: list[RunT] = []

    def start(self, description: RunDescription) -> RunT:
        """Start a run.

        A run that was left unfinished under the same id is replaced.

        Raises:
            TrackerError: If a finished run has this id, the run is open, or the client fails.
        """
        self._runs = self._open_runs()
        if any(run.about.id == description.id for run in self._runs):
            raise TrackerError(f"{self.tool}: run {description.id} is open; finish it first")
        with told(self.tool, f"run {description.id} could not be started"):
            run = self._start(description)
        self._runs.append(run)
        return run

    @abstractmethod
    def _start(self, description: RunDescription) -> RunT: ...

    def _open_runs(self) -> list[RunT]:
        return [run for run in self._runs if not run.ended]

    def close(self) -> None:
        """Finish every run that is still open; again, it does nothing."""
        while self._runs:
            self._runs.pop().finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            while self._runs:
                self._runs.pop().abandon()
        self.close()


@contextmanager
def told(tool: str, what: str) -> Iterator[None]:
    """Turn whatever a client raises into one kind of error."""
    try:
        yield
    except TrackerError:
        raise
    except Exception as error:
        raise TrackerError(f"{tool}: {what} ({type(error).__name__}: {error})") from error


def missing(name: str, package: str) -> MissingDependencyError:
    """Build the error for a tracker whose package is not there."""
    return MissingDependencyError(
        f"the tracker {name!r} needs the package {package}; `pip install telescope-lens[{name}]`"
    )
