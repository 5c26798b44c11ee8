"""Members in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from telescope_core.errors import ExecutionError
from telescope_pipeline.executors.jobs import ATTEMPTS, Job, Result, Watcher, call, described
from telescope_pipeline.schemas.messages import text_of

_PROGRESS_SECONDS = 0.2
_GRACE_SECONDS = 2.0

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class LocalExecutor:
    """Keeps a few worker processes and gives each one member at a time.

    The processes are spawned, not forked, so that no state of the parent reaches a member.  A
    member whose worker dies is run once more, in a new worker; one that raises ends the run.

    Args:
        workers: Processes at a time.
        threads: Threads each computes with.
    """

    def __init__(self, workers: int, threads: int):
        self.workers = workers
        self.threads = threads

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> Iterator[Result]:
        """Run the jobs; see :class:`telescope_pipeline.executors.executor.Executor`."""
        waiting = deque(jobs)
        attempts: Counter[str] = Counter()
        workers: list[_Worker] = []
        try:
            while waiting or any(worker.job for worker in workers):
                while len(workers) < self.workers and len(_idle(workers)) < len(waiting):
                    workers.append(_Worker.start(self.threads))
                for worker in _idle(workers):
                    if waiting:
                        job = waiting.popleft()
                        attempts[job.name] += 1
                        watcher.started(job.name)
                        worker.give(job)
                for worker in _ready(workers):
                    message = worker.receive()
                    if message is None:
                        workers.remove(worker)
                        code = worker.stop()
                        if worker.job is not None:
                            _give_up(worker.job, attempts[worker.job.name], code)
                            watcher.lost(worker.job.name)
                            waiting.appendleft(worker.job)
                        continue
                    name = worker.job.name if worker.job else ""
                    if message[0] == "advanced":
                        watcher.advanced(name, *message[1:])
                    elif message[0] == "failed":
                        raise ExecutionError(f"member {name} failed: {message[1]}")
                    else:
                        worker.job = None
                        watcher.finished(name)
                        yield Result(name, message[1])
        finally:
            for worker in workers:
                worker.stop()


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None

    @classmethod
    def start(cls, threads: int) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), name="telescope-member")
        # Libraries read these when they are loaded, so they must be there from the start.
        with _environment(threads):
            process.start()
        theirs.close()
        return cls(process, ours)

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # a dead worker shows when a message is expected from it
            self.connection.send(job)

    def receive(self) -> tuple[Any, ...] | None:
        """Return the next message, or None if the worker is dead."""
        try:
            message: tuple[Any, ...] = self.connection.recv()
        except (EOFError, OSError):
            return None
        return message

    def stop(self) -> int | None:
        self.connection.close()
        if self.job is None:
            self.process.join(_GRACE_SECONDS)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_GRACE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _give_up(job: Job, attempts: int, code: int | None) -> None:
    if attempts >= ATTEMPTS:
        raise ExecutionError(
            f"member {job.name} lost its worker {attempts} times (exit code {code}); "
            "the machine may be short of memory: lower run.workers, or the size of the case"
        )


def _idle(workers: Sequence[_Worker]) -> list[_Worker]:
    return [worker for worker in workers if worker.job is None]


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    # A dead worker's end of the pipe is closed, which makes ours readable too.
    ready = wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for name in _THREAD_VARIABLES:
            os.environ.pop(name)
        os.environ.update(before)


def _serve(connection: Connection) -> None:
    """Run jobs in a worker process until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        except Exception as error:  # e.g. the job's module does not import
            connection.send(("failed", f"the job could not be loaded: {described(error)}"))
            continue
        outcome = call(job, _Reporter(connection))
        try:
            connection.send(outcome)
        except Exception as error:  # the result cannot travel
            connection.send(("failed", f"{type(error).__name__}: {text_of(error)}"))


class _Reporter:
    """Passes progress on, but not more often than anyone can read it."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._last = -_PROGRESS_SECONDS

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._connection.send(("advanced", done, total))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
