"""What an executor is given and gives back, wherever it runs."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from telescope_core.errors import TelescopeError
from telescope_pipeline.contract import Progress
from telescope_pipeline.schemas.messages import presentable, text_of

ATTEMPTS = 2
"""How often a job may lose its worker before it is given up."""

_FRAMES = 12


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


def call(job: Job, progress: Progress) -> tuple[str, Any]:
    """Run a job where it was sent to.

    Returns:
        ``("done", value)``, or ``("failed", message)``: an exception travels as text, since its
        class may not exist where it goes.
    """
    try:
        return "done", job.function(job.argument, progress)
    except TelescopeError as error:
        return "failed", presentable(str(error))
    except BaseException as error:  # `sys.exit()` there must not end the worker in silence
        return "failed", described(error)


def described(error: BaseException) -> str:
    """What an unplanned exception says, and where it came from."""
    frames = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)[-_FRAMES:]))
    said = ": ".join(part for part in (type(error).__name__, text_of(error)) if part)
    return presentable(f"{said}\n{frames}")
