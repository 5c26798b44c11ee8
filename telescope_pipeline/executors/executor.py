"""Running the members of a sweep, wherever they run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import RunSettings

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One call to make somewhere.

    Attributes:
        name: Names the member in messages.
        function: A function at the top level of a module, called as
            ``function(argument, progress)``.
        argument: What to call it with; it must survive being sent to another process.
    """

    name: str
    function: Callable[[Any, Progress], Any]
    argument: Any


@dataclass(frozen=True)
class Result:
    """What a job returned."""

    name: str
    value: Any


class Watcher(Protocol):
    """Is told how the jobs are doing."""

    def started(self, name: str) -> None:
        """A job began, or began again."""
        ...

    def advanced(self, name: str, done: int, total: int) -> None:
        """A job has done a part of its work."""
        ...

    def lost(self, name: str) -> None:
        """The worker of a job died; the job will be run again."""
        ...

    def finished(self, name: str) -> None:
        """A job returned."""
        ...


class Executor(Protocol):
    """Runs jobs and hands back their results as they come."""

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> Iterator[Result]:
        """Run the jobs.

        Args:
            jobs: The jobs; their names differ.
            watcher: Is told how they are doing.

        Yields:
            A result per job, in the order in which they finish.

        Raises:
            ExecutionError: If a job fails, or loses its worker twice.
        """
        ...


def open_executor(run: RunSettings) -> Executor:
    """Return the executor that ``run.executor`` asks for.

    Args:
        run: The run settings.

    Returns:
        Local processes, or a client of the Dask scheduler at the address given.

    Raises:
        MissingDependencyError: If Dask is asked for and not installed.
        ExecutionError: If the scheduler does not answer.
    """
    if run.executor == "local":
        from telescope_pipeline.executors.local import LocalExecutor

        return LocalExecutor(worker_count(run), run.threads)
    from telescope_pipeline.executors.dask import DaskExecutor

    return DaskExecutor(run.executor)


def worker_count(run: RunSettings) -> int:
    """Return how many members to train at a time: ``run.workers``, or as many as fit."""
    if isinstance(run.workers, int):
        return run.workers
    return max(1, processors() // run.threads)


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
