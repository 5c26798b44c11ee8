"""The trackers under test, each with its library's own reader and what the library cannot do."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support import read_back
from telescope_core.trackers import open_tracker

_DOCS = Path(__file__).resolve().parents[3] / "docs" / "trackers.md"

NAMES = ("dvclive", "jsonl", "mlflow", "shelf", "tensorboard", "trackio", "wandb")
_PACKAGES = {"trackio": "needs an older pillow than the rest; run in an environment of its own"}


@dataclass
class Kit:
    """A tracker under test.

    Attributes:
        name: Of the tracker.
        root: The folder it keeps runs in.
        project: A project of this test alone.
    """

    name: str
    root: Path
    project: str

    def open(self) -> Any:
        """Make a tracker on the same store."""
        options: dict[str, Any] = {"project": self.project}
        if self.name != "shelf":
            # W&B has one folder for all projects.
            options["directory"] = self.root / self.project if self.name == "wandb" else self.root
        return open_tracker(self.name, **options)

    def read(self, run_id: str) -> Any:
        """Read a run with the library's own reader."""
        return read_back.READERS[self.name](self.root, self.project, run_id)

    def same(self, read: Any, told: Any) -> bool:
        """Compare numbers to the last bit."""
        return bool(read_back.same(read, told, mlflow=self.name == "mlflow"))

    def kept(self, number: float) -> float:
        """What the tracker makes of a number in a history; TensorBoard has single precision."""
        if self.name != "tensorboard":
            return number
        with np.errstate(over="ignore"):
            return float(np.float64(number).astype(np.float32))

    def same_picture(self, read: bytes, told: bytes) -> bool:
        """Compare bytes, or pixels where the library encodes anew."""
        if self.name == "dvclive":
            return bool(read_back.pixels(read) == read_back.pixels(told))
        return read == told

    @property
    def looks_up(self) -> bool:
        """Whether the tracker can say what it holds."""
        return self.name not in ("shelf", "wandb")


@pytest.fixture(scope="session")
def _roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def _shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plug-in that the documentation shows, installed."""
    folder = tmp_path_factory.mktemp("plugin")
    blocks = re.findall(r"```python\n(.*?)```", _DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "class ShelfTracker" in block]
    (folder / "shelf_tracker.py").write_text(code, encoding="utf-8")
    info = folder / "shelf_tracker-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-tracker\nVersion: 1.0\n")
    points = "[telescope.trackers]\nshelf = shelf_tracker:ShelfTracker\n"
    (info / "entry_points.txt").write_text(points)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("shelf_tracker", None)


@pytest.fixture(params=NAMES)
def kit(
    request: pytest.FixtureRequest,
    _roots: Path,
    _shelf: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Kit]:
    """Every tracker, in a folder without a git or DVC project around it, and without a network."""
    name = request.param
    if name in _PACKAGES and importlib.util.find_spec(name) is None:
        pytest.skip(_PACKAGES[name])
    # With a token, trackio would ask the hub whose it is.
    (tmp_path / "token").write_text("hf_not_a_token")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    project = re.sub("[^a-z0-9]+", "-", request.node.originalname)
    monkeypatch.chdir(tmp_path)
    calls: list[Any] = []
    # The client of W&B talks to its own service over a socket.
    with contextlib.nullcontext() if name == "wandb" else _no_network(calls):
        yield Kit(name, _roots, project)
    assert calls == []


@contextlib.contextmanager
def _no_network(calls: list[Any]) -> Iterator[None]:
    def refuse(self: socket.socket, address: Any, *rest: Any) -> Any:
        calls.append(address)
        raise OSError(f"no network in this test: {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket.socket, "connect_ex", refuse)
        yield
