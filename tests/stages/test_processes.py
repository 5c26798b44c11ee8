"""The train stage in real processes, which are killed, fail and go on."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Project


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory, project_builder: Callable[[Path], Project]
) -> Project:
    project = project_builder(tmp_path_factory.mktemp("template"))
    assert project.telescope("prepare", "first").returncode == 0
    return project


@pytest.fixture
def prepared(template: Project, tmp_path: Path) -> Project:
    """A copy of a project whose data are there."""
    root = tmp_path / "project"
    shutil.copytree(template.root, root, symlinks=True)
    return replace(
        template, root=root, environment=template.environment | {"PYTHONPATH": str(root)}
    )


def _bytes(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _epochs(trace: Path) -> Counter[str]:
    return Counter(trace.read_text().splitlines())


def test_code_that_trains_counts_and_code_that_draws_does_not(
    prepared: Project, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    first = prepared.telescope("train", "first", TINY_TRACE=str(trace))
    assert "train first: 4 members to train; how long that takes" in first.stderr
    assert re.search(r"^train first: 4 members in \d+ s$", first.stderr, re.MULTILINE)
    before = _bytes(prepared.root / "runs")
    assert set(_epochs(trace).values()) == {1}

    prepared.edit("telescope_pipeline/cases/tiny/figures.py", "Test error", "Error")
    again = prepared.telescope("train", "first", TINY_TRACE=str(trace))
    assert "4 of 4 members are there already" in again.stderr
    assert _bytes(prepared.root / "runs") == before

    prepared.edit("telescope_pipeline/cases/tiny/training/train.py", "mse * 1.5", "mse * 1.6")
    failed = prepared.telescope("train", "first", TINY_FAIL="width-0003_seed-0")
    assert failed.returncode == 1
    assert "error: member width-0003_seed-0 failed: the loss is nan at step 0" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert _bytes(prepared.root / "runs") == before


def test_a_killed_stage_goes_on_where_it_was(prepared: Project, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    prepared.set("cases.first.training.epochs", 30)
    stage = subprocess.Popen(
        prepared.command("train", "first"),
        cwd=prepared.root,
        env=prepared.environment | {"TINY_TRACE": str(trace), "TINY_PAUSE": "0.02"},
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_until(lambda: trace.exists() and len(_epochs(trace)) > 40)
        workers = psutil.Process(stage.pid).children(recursive=True)
        stage.send_signal(signal.SIGKILL)
        stage.wait()
        _wait_until(lambda: not any(worker.is_running() for worker in workers))
    finally:
        stage.kill()
        stage.wait()
    assert not (prepared.root / "runs" / "first").exists()
    assert 40 < len(_epochs(trace)) < 120

    prepared.set("run.workers", 2)
    assert prepared.telescope("train", "first", TINY_TRACE=str(trace)).returncode == 0
    epochs = _epochs(trace)
    assert len(epochs) == 4 * 30
    # Only the epoch in which the kill fell may have been computed twice.
    assert sum(epochs.values()) <= 4 * 30 + 1
    resumed = _bytes(prepared.root / "runs" / "first")

    prepared.set("run.workers", 1)
    (prepared.root / ".telescope").rename(tmp_path / "gone")
    assert prepared.telescope("train", "first").returncode == 0
    assert _bytes(prepared.root / "runs" / "first") == resumed


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.02)
