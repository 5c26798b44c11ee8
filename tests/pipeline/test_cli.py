from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from telescope_pipeline.cli import app

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


def test_every_command_is_there() -> None:
    help_text = CliRunner().invoke(app, ["--help"]).output
    stages = ("prepare", "train", "metrics", "plot", "publish", "report")
    for name in (*stages, "validate", "doctor", "init", "wire", "cost"):
        assert name in help_text


def test_an_unknown_option_is_an_error_of_use() -> None:
    assert CliRunner().invoke(app, ["train", "a", "--fast"]).exit_code == 2
