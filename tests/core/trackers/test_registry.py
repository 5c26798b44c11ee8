"""Trackers by name, by entry point, and the one that keeps nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.trackers import (
    ArtifactFiles,
    NullTracker,
    RunDescription,
    available_trackers,
    open_tracker,
)

_PLUGIN = """
from telescope_core.trackers import NullTracker

class Tracker(NullTracker):
    def __init__(self, colour):
        self.colour = colour
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that brings trackers of its own."""
    (tmp_path / "tracker_plugin.py").write_text(_PLUGIN)
    info = tmp_path / "tracker_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tracker-plugin\nVersion: 1.0\n")
    points = "coloured = tracker_plugin:Tracker\nbroken = package_that_is_not_there:Tracker\n"
    (info / "entry_points.txt").write_text(f"[telescope.trackers]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tracker_plugin", raising=False)


def test_the_trackers_that_come_with_it() -> None:
    clients = {"dvclive", "mlflow", "tensorboard", "trackio", "wandb"}
    assert {*clients, "jsonl", "none"} <= set(available_trackers())
    assert isinstance(open_tracker("none"), NullTracker)


def test_importing_the_trackers_imports_no_client() -> None:
    code = (
        "import sys, telescope_core.trackers as trackers\n"
        "from telescope_core.trackers.registry import tracker_factory\n"
        "for name in trackers.available_trackers(): tracker_factory(name)\n"
        "clients = {'wandb', 'mlflow', 'dvclive', 'tensorboard', 'trackio'}\n"
        "print(*(clients | {'torch', 'pandas', 'numpy'}).intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


_ALONE = """
import sys
for name in ("dvc", "matplotlib", "pandas", "pyarrow", "pydantic", "rich", "wandb"):
    sys.modules[name] = None  # As if it were not installed.
import telescope_core.callbacks, telescope_core.live
from telescope_core.errors import MissingDependencyError
from telescope_core.trackers import RunDescription, open_tracker

with open_tracker("jsonl", directory=sys.argv[1]) as tracker:
    tracker.start(RunDescription("run-1", "n", "g", "t")).log(0, {"x": 1.0})
try:
    open_tracker("wandb", project="p")
except MissingDependencyError as error:
    print(error)
"""


def test_the_library_alone_keeps_runs_and_names_a_missing_client(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ALONE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "`pip install telescope-lens[wandb]`" in done.stdout
    assert len(list(tmp_path.rglob("history.jsonl"))) == 1


@pytest.mark.usefixtures("plugin")
def test_an_entry_point_brings_a_tracker() -> None:
    tracker = open_tracker("coloured", colour="red")

    assert tracker.colour == "red"  # type: ignore[attr-defined]
    assert "coloured" in available_trackers()


@pytest.mark.usefixtures("plugin")
def test_an_entry_point_that_does_not_load_says_what_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match="package_that_is_not_there"):
        open_tracker("broken")


def test_an_unknown_name_is_refused_with_a_close_match() -> None:
    with pytest.raises(ConfigurationError, match=r"'wandbb'.*none, .*wandb; did you mean 'wandb'"):
        open_tracker("wandbb")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'none'"):
        open_tracker("none", colour="red")


def test_a_wandb_mode_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'sometimes'; expected 'offline' or 'online'"):
        open_tracker("wandb", project="p", mode="sometimes")


def test_the_null_tracker_takes_everything(tmp_path: Path) -> None:
    with open_tracker("none") as tracker:
        run = tracker.start(RunDescription("id", "name", "group", "type"))
        run.log(0, {"a": 1.0})
        run.summarize({"a": 1.0})
        run.image("a", tmp_path / "none.png")
        run.table("a", ["x"], [[1]])
        run.artifact(ArtifactFiles("a", "kind", {}))
        run.finish()
    assert list(tmp_path.iterdir()) == []
