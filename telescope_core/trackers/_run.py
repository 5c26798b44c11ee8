"""What the trackers have in common: runs that end once, and errors of one kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from telescope_core.errors import MissingDependencyError, TrackerError
from telescope_core.trackers.protocol import ArtifactFiles, Cell, Rows, RunDescription


class BaseRun(ABC):
    """A :class:`~telescope_core.trackers.TrackedRun` that is open until it is finished or let go.

    A tracker fills in how each thing is kept; whatever its client raises is a ``TrackerError``.

    Attributes:
        about: What the run is.
        ended: Whether it is over.
    """

    tool: str

    def __init__(self, about: RunDescription) -> None:
        self.about = about
        self.ended = False
        self._summary: dict[str, Cell] = {}

    def log(self, step: int, record: Mapping[str, float]) -> None:
        """Add a row to the history; an entry called like the step axis is ignored."""
        with self._told("a row could not be logged"):
            axis = self.about.step_key
            self._log(step, {name: float(x) for name, x in record.items() if name != axis})

    def summarize(self, values: Mapping[str, Cell]) -> None:
        """Set values that describe the run as a whole; they are written when it ends."""
        with self._told("the summary could not be set"):
            self._summary |= values

    def image(self, key: str, path: Path, caption: str = "") -> None:
        """Show a picture file."""
        with self._told(f"picture {key} could not be kept"):
            self._image(key, path, caption)

    def table(self, key: str, columns: Sequence[str], rows: Rows) -> None:
        """Show a table."""
        with self._told(f"table {key} could not be kept"):
            self._table(key, columns, rows)

    def artifact(self, artifact: ArtifactFiles) -> None:
        """Keep a copy of files."""
        with self._told(f"artifact {artifact.name} could not be kept"):
            self._artifact(artifact)

    def finish(self) -> None:
        """Complete the run; again, it does nothing."""
        self._close(complete=True)

    def abandon(self) -> None:
        """Let go of the run and do not call it complete."""
        self._close(complete=False)

    @abstractmethod
    def _log(self, step: int, numbers: dict[str, float]) -> None: ...

    @abstractmethod
    def _image(self, key: str, path: Path, caption: str) -> None: ...

    @abstractmethod
    def _table(self, key: str, columns: Sequence[str], rows: Rows) -> None: ...

    @abstractmethod
    def _artifact(self, artifact: ArtifactFiles) -> None: ...

    @abstractmethod
    def _end(self, complete: bool) -> None:
        """Write what is left to write, the summary first, and free what is held."""

    def _close(self, complete: bool) -> None:
        if self.ended:
            return
        try:
            with self._told("it could not be finished"):
                self._end(complete)
        finally:
            self.ended = True

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        run = f"run {self.about.id}"
        if self.ended:
            raise TrackerError(f"{self.tool}: {what}, since {run} is over; start another run")
        with told(self.tool, f"{run}: {what}"):
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

        Returns:
            The run, open for records.

        Raises:
            TrackerError: If a finished run has this id, the run is open, or the client fails.
        """
        self._runs = [run for run in self._runs if not run.ended]
        if any(run.about.id == description.id for run in self._runs):
            raise TrackerError(f"{self.tool}: run {description.id} is open; finish it first")
        with told(self.tool, f"run {description.id} could not be started"):
            run = self._start(description)
        self._runs.append(run)
        return run

    @abstractmethod
    def _start(self, about: RunDescription) -> RunT: ...

    def close(self) -> None:
        """Finish every run that is still open; again, it does nothing."""
        while self._runs:
            self._runs.pop().finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            while self._runs:
                self._runs.pop().abandon()
        self.close()


class Store(Session[RunT]):
    """A session that can be asked what is kept (:class:`~telescope_core.trackers.RunStore`)."""

    def holds(self, run_id: str, content: str) -> bool:
        """Return whether a finished run with this id and content is there.

        Raises:
            TrackerError: If the tracker cannot be asked.
        """
        with told(self.tool, "runs could not be looked up"), self._around():
            return any(self._content(found) == content for found in self._find(run_id))

    def place(self, run_id: str) -> str | None:
        """Return where a run is kept, a path or an address; None if nowhere.

        Raises:
            TrackerError: If the tracker cannot be asked.
        """
        with told(self.tool, "runs could not be looked up"), self._around():
            return next(map(self._place, self._find(run_id)), None)

    def remove(self, run_id: str) -> None:
        """Remove whatever is kept under an id, finished or not.

        Raises:
            TrackerError: If it cannot be removed.
        """
        with told(self.tool, f"run {run_id} could not be removed"), self._around():
            for found in self._find(run_id):
                self._remove(found)

    def _start(self, about: RunDescription) -> RunT:
        with self._around():
            for found in self._find(about.id):
                if self._content(found) is not None:
                    message = f"run {about.id} is finished and lies in {self._place(found)}"
                    raise TrackerError(f"{self.tool}: {message}; choose another id, or remove it")
                self._remove(found)
            return self._begin(about)

    def _around(self) -> AbstractContextManager[None]:
        """What the client needs around it."""
        return nullcontext()

    @abstractmethod
    def _begin(self, about: RunDescription) -> RunT: ...

    @abstractmethod
    def _find(self, run_id: str) -> Sequence[Any]:
        """Whatever is kept under an id."""

    @abstractmethod
    def _content(self, found: Any) -> str | None:
        """The content of a finished run, empty if it is not known; None of an unfinished one."""

    @abstractmethod
    def _place(self, found: Any) -> str: ...

    @abstractmethod
    def _remove(self, found: Any) -> None:
        """Make room for another run under the id."""


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
