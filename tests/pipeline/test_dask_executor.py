from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from telescope_core.errors import ExecutionError, MissingDependencyError
from telescope_pipeline.executors.dask import DaskExecutor
from telescope_pipeline.executors.executor import open_executor
from telescope_pipeline.executors.jobs import Job
from telescope_pipeline.parameters.model import RunSettings

HERE = str(Path(__file__).parent)

# The cluster lives in a process of its own: it leaves threads and warnings behind.
_SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import executor_jobs
from distributed import LocalCluster
from telescope_core.errors import ExecutionError
from telescope_pipeline.executors.executor import open_executor
from telescope_pipeline.executors.jobs import Job
from telescope_pipeline.parameters.model import RunSettings
from test_local_executor import Recorder

if __name__ == "__main__":
    folder = Path({folder!r})
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        executor = open_executor(RunSettings(seed=0, executor=cluster.scheduler_address))
        recorder = Recorder()
        jobs = [Job(str(n), executor_jobs.square, n) for n in range(4)]
        jobs.append(Job("fragile", executor_jobs.die_once, folder / "marker"))
        results = {{r.name: r.value for r in executor.run(jobs, recorder)}}
        print(sorted(results.items()))
        print(sum(event[0] == "finished" for event in recorder.events))
        for function, argument in (
            (executor_jobs.fail, "boom"),
            (executor_jobs.crash, "boom"),
            (executor_jobs.leave, "exit"),
            (executor_jobs.leave, "interrupt"),
            (executor_jobs.leave, "untold"),
        ):
            try:
                list(executor.run([Job("bad", function, argument)], Recorder()))
            except ExecutionError as error:
                print(str(error).splitlines()[0])
"""


def test_a_cluster_gives_the_results_of_local_processes(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra telescope-lens[dask] is not installed")
    script = tmp_path / "sweep.py"
    script.write_text(_SCRIPT.format(here=HERE, folder=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "[('0', 0), ('1', 1), ('2', 4), ('3', 9), ('fragile', 'alive')]",
        "5",
        "member bad failed: boom",
        "member bad failed: KeyError: 'boom'",
        "member bad failed: SystemExit: 0",
        "member bad failed: KeyboardInterrupt",
        "member bad failed: UntoldError: a text that cannot be made: SystemExit",
    ]


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra telescope-lens[dask] is not installed")
    executor = DaskExecutor("tcp://127.0.0.1:9")

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(executor._distributed, "Client", refuse)
    with pytest.raises(ExecutionError, match=r"tcp://127.0.0.1:9.*dask scheduler"):
        list(executor.run([Job("j", print, None)], _Silent()))


def test_without_dask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"telescope-lens\[dask\]"):
        open_executor(RunSettings(seed=0, executor="tcp://somewhere:8786"))


class _Silent:
    def started(self, name: str) -> None: ...

    def advanced(self, name: str, done: int, total: int) -> None: ...

    def lost(self, name: str) -> None: ...

    def finished(self, name: str) -> None: ...
