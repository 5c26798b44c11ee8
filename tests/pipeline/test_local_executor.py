from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from telescope_core.errors import ExecutionError
from telescope_pipeline.executors.executor import worker_count
from telescope_pipeline.executors.jobs import Job
from telescope_pipeline.executors.local import LocalExecutor
from telescope_pipeline.parameters.model import RunSettings


class Recorder:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def started(self, name: str) -> None:
        self.events.append(("started", name))

    def advanced(self, name: str, done: int, total: int) -> None:
        self.events.append(("advanced", name, done, total))

    def lost(self, name: str) -> None:
        self.events.append(("lost", name))

    def finished(self, name: str) -> None:
        self.events.append(("finished", name))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import executor_jobs

    return executor_jobs


def _children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_every_job_returns_its_own_result(jobs: ModuleType) -> None:
    recorder = Recorder()
    work = [Job(f"job-{n}", jobs.square, n) for n in range(5)]
    results = {r.name: r.value for r in LocalExecutor(2, 1).run(work, recorder)}
    assert results == {f"job-{n}": n * n for n in range(5)}
    assert next(event for event in recorder.events if event[1] == "job-3") == ("started", "job-3")
    assert recorder.events.count(("advanced", "job-3", 3, 3)) == 1
    assert recorder.events.count(("finished", "job-3")) == 1
    assert not _children()


def test_no_jobs_start_no_process(jobs: ModuleType) -> None:
    assert list(LocalExecutor(2, 1).run([], Recorder())) == []


def test_threads_are_limited_before_libraries_load(
    jobs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    (result,) = LocalExecutor(1, 3).run([Job("j", jobs.environment, None)], Recorder())
    assert result.value == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_a_planned_error_names_the_member_without_a_traceback(jobs: ModuleType) -> None:
    work = [Job("width-3", jobs.fail, "the loss is nan")]
    with pytest.raises(ExecutionError) as raised:
        list(LocalExecutor(1, 1).run(work, Recorder()))
    assert str(raised.value) == "member width-3 failed: the loss is nan"
    assert not _children()


def test_an_unplanned_error_shows_where_it_came_from(jobs: ModuleType) -> None:
    work = [Job("width-3", jobs.crash, "oops")]
    with pytest.raises(ExecutionError, match=r"member width-3 failed: KeyError: 'oops'") as raised:
        list(LocalExecutor(1, 1).run(work, Recorder()))
    assert "executor_jobs.py" in str(raised.value)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "SystemExit: 0"),
        ("interrupt", "KeyboardInterrupt"),
        ("untold", "UntoldError: a text that cannot be made: SystemExit"),
        ("huge", "xxxx"),
        ("huge crash", "KeyError: 'xxxx"),
        ("secret", "KeyError: '<OWN_API_KEY>'"),
    ],
)
def test_whatever_a_member_raises_is_one_bounded_error(
    how: str, said: str, jobs: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_API_KEY", "open-sesame")
    recorder = Recorder()
    with pytest.raises(ExecutionError) as raised:
        list(LocalExecutor(1, 1).run([Job("width-3", jobs.leave, how)], recorder))
    message = str(raised.value)
    assert message.startswith(f"member width-3 failed: {said}")
    assert len(message) < 3000
    assert "open-sesame" not in message
    assert recorder.events == [("started", "width-3")]


def test_a_result_that_cannot_travel_is_an_error_of_the_member(jobs: ModuleType) -> None:
    with pytest.raises(ExecutionError, match="member odd failed"):
        list(LocalExecutor(1, 1).run([Job("odd", jobs.unsendable, None)], Recorder()))


def test_a_lost_worker_is_replaced_and_its_member_run_again(
    jobs: ModuleType, tmp_path: Path
) -> None:
    recorder = Recorder()
    work = [
        Job("fragile", jobs.die_once, tmp_path / "marker"),
        *(Job(f"job-{n}", jobs.square, n) for n in range(3)),
    ]
    results = {r.name: r.value for r in LocalExecutor(2, 1).run(work, recorder)}
    assert results == {"fragile": "alive", "job-0": 0, "job-1": 1, "job-2": 4}
    assert recorder.events.count(("lost", "fragile")) == 1
    assert sum(event[0] == "lost" for event in recorder.events) == 1


def test_a_member_that_kills_two_workers_ends_the_run(jobs: ModuleType) -> None:
    with pytest.raises(ExecutionError, match=r"member heavy lost its worker 2 times.*memory"):
        list(LocalExecutor(1, 1).run([Job("heavy", jobs.die, None)], Recorder()))
    assert not _children()


_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import executor_jobs
from telescope_pipeline.executors.jobs import Job
from telescope_pipeline.executors.local import LocalExecutor
from test_local_executor import Recorder
if __name__ == "__main__":
    folder = Path({folder!r})
    work = [Job(str(n), executor_jobs.sleep_long, folder) for n in range(2)]
    list(LocalExecutor(2, 1).run(work, Recorder()))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_parent(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "sweep.py"
    script.write_text(_SCRIPT.format(here=str(Path(__file__).parent), folder=str(tmp_path)))
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # What a shell runs in the background ignores interruptions, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        workers = _wait_for(lambda: _pids(tmp_path), 2)
        parent.send_signal(how)
        parent.wait(60)
        deadline = time.monotonic() + 60
        while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in workers if psutil.pid_exists(pid)]
    finally:
        parent.kill()
        parent.wait()


def _pids(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.pid")]


def _wait_for(look: Callable[[], list[int]], count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = look()
        if len(found) >= count:
            return found
        time.sleep(0.05)
    pytest.fail("the workers did not start")


def test_auto_workers_fill_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telescope_pipeline.executors.executor.processors", lambda: 8)
    assert worker_count(RunSettings(seed=0, threads=3)) == 2
    assert worker_count(RunSettings(seed=0, threads=16)) == 1
    assert worker_count(RunSettings(seed=0, workers=5)) == 5
