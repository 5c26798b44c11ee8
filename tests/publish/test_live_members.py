"""What a W&B user sees of one case: live members, killed in the middle and gone on with."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support import loopback

if TYPE_CHECKING:
    from conftest import Project

_EPOCHS = 30


@pytest.fixture
def followed(
    project_builder: Callable[..., Project], tmp_path: Path, server: Any
) -> Iterator[Project]:
    """A tiny case whose members are shown at the server while they train."""
    project = project_builder(tmp_path, short=False)
    tracking = {"tracker": "wandb", "mode": "online", "live": True, "project": "testing"}
    for leaf, value in tracking.items():
        project.set(f"tracking.{leaf}", value)
    project.set("cases.first.training.epochs", _EPOCHS)
    project.set("cases.first.model.widths", [2])
    project.set("run.workers", 1)
    project.environment |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": loopback.KEY}
    assert project.telescope("prepare", "first").returncode == 0
    return project


def _steps(run: Any) -> list[int]:
    return [row["step"] for row in run.history if "step" in row]


def test_members_killed_in_the_middle_are_gone_on_with(followed: Project, server: Any) -> None:
    stage = subprocess.Popen(
        followed.command("train", "first"),
        cwd=followed.root,
        env=followed.environment | {"TINY_PAUSE": "2"},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not any(_steps(run) for run in server.runs.values()):
        assert time.monotonic() < until
        time.sleep(0.05)
    workers = psutil.Process(stage.pid).children(recursive=True)
    stage.kill()
    stage.wait()
    psutil.wait_procs(workers, timeout=30)
    ((name, run),) = server.runs.items()
    shown = _steps(run)
    assert 0 < len(shown) < _EPOCHS
    assert run.state == "running"
    assert run.fields["displayName"] == "first: width 2, seed 0"

    done = followed.telescope("train", "first", TINY_PAUSE="0")
    assert done.returncode == 0, done.stderr
    for stage_name in ("metrics", "plot", "publish"):
        done = followed.telescope(stage_name, "first")
        assert done.returncode == 0, done.stderr

    # The same runs, complete: every row once, in order, and what only publishing knows.
    receipt = json.loads((followed.root / "results" / "first" / "receipt.json").read_text())
    assert (receipt["mode_used"], receipt["reason"]) == ("online", None)
    assert server.unknown == []
    seen = {r.fields["displayName"]: r for r in server.runs.values()}
    assert set(seen) == {"first: width 2, seed 0", "first: width 2, seed 1", "first"}
    assert seen["first: width 2, seed 0"] is server.runs[name]
    assert {r["id"] for r in receipt["runs"]} == server.runs.keys()
    for member in (seen["first: width 2, seed 0"], seen["first: width 2, seed 1"]):
        assert member.state == "finished"
        assert member.fields["groupName"] == "first: width 2"
        assert _steps(member) == list(range(_EPOCHS))
        assert len(member.config["content"]) == 64
    assert seen["first"].charts
    assert {a.name for a in server.artifacts.values()} >= {"first-data", "first-results"}

    # Nobody following, the results are the same.
    before = _bytes(followed)
    followed.set("tracking.live", False)
    (followed.root / ".telescope").rename(followed.root / "moved")
    assert followed.telescope("train", "first").returncode == 0
    assert _bytes(followed) == before


def _bytes(project: Project) -> dict[str, bytes]:
    folder = project.root / "runs"
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
