"""Chooses where the members of a sweep run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from telescope_pipeline.executors.jobs import Executor

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import RunSettings


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
