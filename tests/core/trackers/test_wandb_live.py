"""Weights & Biases in one's own training process, beside a run of one's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from telescope_pipeline.publish.wandb.folders import run_file, run_folders
from telescope_pipeline.publish.wandb.run_file import check_run_file

_SCRIPT = """
import os, pathlib
import wandb
from telescope_core.trackers import RunDescription, open_tracker

mine = wandb.init(mode="offline", project="mine", id="own", settings=wandb.Settings(silent=True))
before = dict(os.environ)
with open_tracker("wandb", project="lens", mode="offline", directory="kept") as tracker:
    run = tracker.start(RunDescription("lens", "lens", "group", "live", config={"a": 1}))
    for step in range(3):
        mine.log({"loss": 1 / (step + 1)})
        run.log(10 * step, {"step": 10 * step, "test/effective_parameters": float(step)})
    assert wandb.run is mine
    assert dict(os.environ) == before
    # Left to the tracker: run.finish()
assert wandb.run is mine
mine.log({"loss": 0.0})
mine.finish()
assert dict(os.environ) == before
"""


def test_it_leaves_the_users_own_run_alone(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = kept | {"HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    (own,) = run_folders(tmp_path, "own")
    (lens,) = run_folders(tmp_path / "kept", "lens")
    check_run_file(run_file(own, "own"), 4)
    check_run_file(run_file(lens, "lens"), 3)
