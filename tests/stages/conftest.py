"""The stages in this process, with the tiny kind of case among the others."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest
import torch

from telescope_core.errors import ExecutionError, TelescopeError
from telescope_pipeline import cases
from telescope_pipeline.executors.jobs import Job, Result, Watcher

_TINY = Path(__file__).resolve().parent.parent / "tiny_case"
_NAME = "telescope_pipeline.cases.tiny"


class _Inline:
    """Runs jobs one after the other in this process."""

    def run(self, jobs: Sequence[Job], watcher: Watcher) -> Iterator[Result]:
        for job in jobs:
            try:
                value = job.function(job.argument, lambda done, total: None)
            except TelescopeError as error:
                raise ExecutionError(f"member {job.name} failed: {error}") from error
            yield Result(job.name, value)


@dataclass
class Stages:
    """Runs stages on the parameters in a folder.

    Attributes:
        root: The folder.
        tiny: The tiny kind's folder, whose modules a test may edit before it runs a stage.
        trace: Where the tiny case notes the epochs it computes.
    """

    root: Path
    tiny: Path
    trace: Path
    set_leaf: Callable[[Path, str, object], None]

    def run(self, stage: str, case: str = "first") -> None:
        """Run a stage on the modules as they are now."""
        _forget()
        import_module(f"telescope_pipeline.stages.{stage}").run(case, self.root / "params.yaml")

    def set(self, dotted: str, value: Any) -> None:
        """Give a leaf of ``params.yaml`` another value."""
        self.set_leaf(self.root / "params.yaml", dotted, value)

    def edit(self, part: str, old: str, new: str) -> None:
        """Replace a text in a module of the tiny case."""
        path = self.tiny / f"{part}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def trained(self) -> set[str]:
        """Name the members trained since the last call."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        self.trace.unlink(missing_ok=True)
        return {line.split()[0] for line in lines}


def _forget() -> None:
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{_NAME}.")]:
        del sys.modules[name]
    invalidate_caches()


@pytest.fixture
def stages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parameter_text: str,
    set_leaf: Callable[[Path, str, object], None],
) -> Iterator[Stages]:
    """Two tiny cases in a fresh folder."""
    tiny = tmp_path / "kinds" / "tiny"
    shutil.copytree(_TINY, tiny, ignore=shutil.ignore_patterns("__pycache__"))
    # A kind is found wherever the package of kinds has a folder.
    monkeypatch.setattr(cases, "__path__", [*cases.__path__, str(tiny.parent)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "params.yaml").write_text(parameter_text)
    trace = tmp_path / "trace"
    monkeypatch.setenv("TINY_TRACE", str(trace))
    train = import_module("telescope_pipeline.stages.train")
    monkeypatch.setattr(train, "open_executor", lambda run: _Inline())
    # Training sets these for its own process, which here is everybody's.
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield Stages(tmp_path, tiny, trace, set_leaf)
    _forget()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
