"""Projects to publish, run files to read, and an environment without the user's own settings."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_HERE = Path(__file__).resolve().parent


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"publish_{name}", _HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


synthetic = _module("synthetic")
reader = _module("wandb_reader")
loopback = _module("loopback")


@pytest.fixture(autouse=True, scope="session")
def _no_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """A project with results to publish."""
    return synthetic.build(tmp_path / "project")


@pytest.fixture
def build_project(tmp_path: Path) -> Callable[[str], Any]:
    """Builds the same project in folders of one's choice."""
    return lambda name: synthetic.build(tmp_path / name)


@pytest.fixture(scope="session")
def build() -> Callable[[Path], Any]:
    """Builds a project in a folder that does not exist yet."""
    return synthetic.build  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def read_run() -> Callable[[Path], Any]:
    """Reads an offline run folder."""
    return reader.read_run  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[Any]:
    """A stand-in for the tracker's server on the loopback interface."""
    with loopback.Server() as running:
        yield running
