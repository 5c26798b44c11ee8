"""The examples run exactly as they are, and the docs show exactly them."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from telescope_pipeline.publish.wandb.folders import run_file, run_folders
from telescope_pipeline.publish.wandb.run_file import check_run_file


def _run(script: Path, folder: Path, *arguments: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        cwd=folder,
        env=kept | {"HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _numbers(lines: list[str]) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split(" ") for line in lines)}


def test_plain(repository: Path, tmp_path: Path) -> None:
    script = repository / "examples" / "plain.py"
    printed = _numbers(_run(script, tmp_path))
    assert not list(tmp_path.iterdir())
    assert _numbers(_run(script, tmp_path, "wandb")) == printed
    assert printed["step"] == 200
    # Of at most one per training row.
    assert 1 < printed["p_test"] < 500
    assert 1 < printed["p_train"] < 500

    (folder,) = run_folders(tmp_path, "product-plain")
    check_run_file(run_file(folder, "product-plain"), 200 // 10)


def test_lightning(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="needs telescope-lens[lightning]")
    lines = _run(repository / "examples" / "lightning_digits.py", tmp_path)
    printed = _numbers(lines)
    name = "train/degrees_of_freedom"
    assert printed.keys() == {name, f"{name}_stderr"}
    # Of at most one per training row.
    assert 1 < printed[name] < 500
    assert 0 < printed[f"{name}_stderr"] < printed[name]

    (path,) = tmp_path.glob("logs/**/metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row[name]]
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40]
    assert round(float(rows[-1][name]), 1) == pytest.approx(printed[name])


def test_huggingface(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs telescope-lens[transformers]")
    pytest.importorskip("accelerate", reason="needs telescope-lens[transformers]")
    lines = _run(repository / "examples" / "huggingface.py", tmp_path)
    printed = _numbers(lines[-3:])
    assert printed["step"] == 50
    # Of at most one per training row.
    assert 0 < printed["degrees_of_freedom"] < 80
    assert 0 < printed["standard_error"] < printed["degrees_of_freedom"]
    # The Trainer's own log shows a record per block of ten steps.
    assert sum("train/degrees_of_freedom" in line for line in lines[:-3]) == 5


def test_accelerate(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="needs telescope-lens[transformers]")
    printed = _numbers(_run(repository / "examples" / "accelerate_digits.py", tmp_path))
    assert printed["step"] == 100
    assert 0 < printed["test/approximation_error"] < printed["test/linearization_error"] / 5


@pytest.mark.parametrize(
    "name", ["plain.py", "lightning_digits.py", "huggingface.py", "accelerate_digits.py"]
)
def test_the_docs_show_the_examples(repository: Path, name: str) -> None:
    text = (repository / "docs" / "live.md").read_text()
    shown = re.search(rf"`examples/{re.escape(name)}`:?\n\n```python\n(.*?)```\n", text, re.DOTALL)
    assert shown is not None, f"docs/live.md does not show {name}"
    assert shown[1] == (repository / "examples" / name).read_text()
