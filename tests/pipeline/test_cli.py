from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from telescope_pipeline import estimates
from telescope_pipeline.cli import app
from telescope_pipeline.executors import executor
from telescope_pipeline.parameters import KINDS, RunSettings

HEAVY = ("torch", "pandas", "pandera", "matplotlib", "wandb", "dvc", "numpy")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["validate"], ["train", "--help"], ["--version"]]
)
def test_light_commands_import_nothing_heavy(arguments: list[str], repository: Path) -> None:
    script = (
        "import sys, runpy\n"
        f"sys.argv = ['telescope', *{arguments!r}]\n"
        "try:\n"
        "    runpy.run_module('telescope_pipeline.cli', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning", "-c", script],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_only_preparing_and_members_need_torch(repository: Path) -> None:
    stages = [f"stages.{name}" for name in ("train", "metrics", "plot", "publish", "report")]
    parts = ("sweep", "metrics", "claims", "figures")
    kinds = [f"cases.{kind}.{part}" for kind in KINDS for part in parts]
    script = (
        "import sys\n"
        "from importlib import import_module\n"
        f"for name in {[*stages, *kinds]!r}:\n"
        "    import_module(f'telescope_pipeline.{name}')\n"
        "    heavy = {'torch', 'wandb', 'dvc', 'sklearn'} & sys.modules.keys()\n"
        "    assert not heavy, (name, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_is_there() -> None:
    help_text = CliRunner().invoke(app, ["--help"]).output
    stages = ("prepare", "train", "metrics", "plot", "publish", "report")
    listed = re.findall(r"^│ (\w+) ", help_text, re.MULTILINE)
    begin = ["demo", "init", "validate", "estimate", "doctor"]
    assert listed == [*begin, *stages, "trial", "sync", "cost", "wire"]


def test_the_shell_completes_names_of_cases(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path
) -> None:
    words = {"COMP_WORDS": "telescope train gro", "COMP_CWORD": "2"}
    for name, value in {"_TELESCOPE_COMPLETE": "complete_bash", **words}.items():
        monkeypatch.setenv(name, value)

    def completed() -> list[str]:
        return CliRunner().invoke(app, prog_name="telescope").output.split()

    monkeypatch.chdir(repository)
    assert completed() == ["grokking_polynomial", "grokking_network"]
    monkeypatch.chdir(tmp_path)
    assert completed() == []


def test_training_is_estimated_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, repository: Path
) -> None:
    shutil.copy(repository / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executor, "processors", lambda: 2)
    depth = {f"residual-depth-{d:04d}_seed-{s}": {"cpu_seconds": 60.0} for d in (1,) for s in (0,)}
    (tmp_path / "timing").mkdir()
    (tmp_path / "timing" / "depth.json").write_text(json.dumps({"members": depth}))
    lines = dict(
        line.split(": ", 1) for line in CliRunner().invoke(app, ["estimate"]).output.splitlines()
    )
    # 24 members of a minute on two workers, which take a moment to start.
    assert lines["depth"] == "24 members to train, about 12 min with 2 workers, by its last run"
    assert re.fullmatch(
        r"2 members to train, about \d+ (s|min) with 2 workers, on a usual machine",
        lines["modular_addition"],
    )
    assert re.fullmatch(r"about \d+ min", lines["together"])


@pytest.mark.parametrize(
    ("seconds", "workers", "clock"),
    [((), 3, 0), ((5,), 3, 5), ((3, 3, 3), 2, 6), ((9, 1, 1, 1), 2, 9), ((1, 1), 1, 2)],
)
def test_members_go_to_whoever_is_free(
    seconds: tuple[float, ...], workers: int, clock: float
) -> None:
    run = RunSettings(seed=0, workers=workers)
    started = estimates._START if seconds else 0
    assert estimates.on_the_clock(seconds, run) == clock + started


def test_every_kind_but_the_users_own_is_estimated_before_its_first_run() -> None:
    assert {*estimates._USUAL, "own_model"} == set(KINDS)


def test_an_unknown_option_is_an_error_of_use() -> None:
    assert CliRunner().invoke(app, ["train", "a", "--fast"]).exit_code == 2
