"""Members on a Dask cluster: a laptop's, a Slurm partition's or a Kubernetes namespace's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from telescope_core.errors import ExecutionError, MissingDependencyError
from telescope_pipeline.executors.jobs import ATTEMPTS, Job, Result, Watcher, call

_CONNECT_SECONDS = 20


class DaskExecutor:
    """Hands members to the scheduler at an address.

    The workers need this project installed in the same versions, and the project's folder at the
    same path; both are checked before a member is trained.  Start them with one thread each
    (``dask worker --nthreads 1``), since members set the number of threads they compute with.

    Args:
        address: Address of the scheduler, e.g. ``tcp://10.0.0.5:8786``.

    Raises:
        MissingDependencyError: If ``distributed`` is not installed.
    """

    def __init__(self, address: str):
        try:
            self._distributed: Any = import_module("distributed")
        except ImportError as error:
            message = (
                f"run.executor is {address}, which needs Dask; install it with "
                "`pip install 'telescope-lens[dask]'`"
            )
            raise MissingDependencyError(message) from error
        self.address = address

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> Iterator[Result]:
        """Run the jobs; see :class:`telescope_pipeline.executors.executor.Executor`."""
        if not jobs:
            return
        distributed = self._distributed
        with self._connect() as client:
            attempts: Counter[str] = Counter()
            names: dict[Any, Job] = {}

            def submit(job: Job) -> Any:
                attempts[job.name] += 1
                watcher.started(job.name)
                future = client.submit(call, job, _unheard, pure=False)
                names[future] = job
                return future

            pending = distributed.as_completed([submit(job) for job in jobs])
            try:
                for future in pending:
                    job = names.pop(future)
                    try:
                        outcome, value = future.result()
                    except (distributed.KilledWorker, distributed.CancelledError) as error:
                        if attempts[job.name] >= ATTEMPTS:
                            message = f"member {job.name} lost its Dask worker for good: {error}"
                            raise ExecutionError(message) from error
                        watcher.lost(job.name)
                        pending.add(submit(job))
                        continue
                    if outcome == "failed":
                        raise ExecutionError(f"member {job.name} failed: {value}")
                    watcher.finished(job.name)
                    yield Result(job.name, value)
            finally:
                client.cancel(list(names))

    def _connect(self) -> Any:
        try:
            return self._distributed.Client(self.address, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            message = (
                f"run.executor is {self.address}, but no Dask scheduler answered there "
                f"within {_CONNECT_SECONDS} s ({error}); start one with `dask scheduler`"
            )
            raise ExecutionError(message) from error


def _unheard(done: int, total: int) -> None:
    """Progress inside a member stays on its worker."""
