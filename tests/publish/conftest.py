"""Projects to publish, run files to read, and an environment without the user's own settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import loopback, synthetic


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


@pytest.fixture
def server() -> Iterator[loopback.Server]:
    """A stand-in for the tracker's server on the loopback interface."""
    with loopback.Server() as running:
        yield running


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, server: loopback.Server) -> loopback.Server:
    """The same, in the place of the real one and with a key that it takes."""
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", loopback.KEY)
    return server
