"""The stages in this process, with the tiny case in the place of ``double_descent``."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from support.modules import module_from_file
from telescope_core.errors import ExecutionError, TelescopeError
from telescope_pipeline.executors.executor import Job, Result, Watcher

_TINY = Path(__file__).resolve().parent.parent / "tiny_case"
_PARTS = ("data", "members", "training", "metrics", "figures")


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
        tiny: The tiny case's modules, as files that a test may edit before it runs a stage.
        trace: Where the tiny case notes the epochs it computes.
    """

    root: Path
    tiny: Path
    trace: Path
    install: Callable[[str, object], None]
    set_leaf: Callable[[Path, str, object], None]

    def run(self, stage: str, case: str = "first") -> None:
        """Run a stage on the modules as they are now."""
        for part in _PARTS:
            name = f"telescope_pipeline.cases.double_descent.{part}"
            self.install(name, module_from_file(name, self.tiny / f"{part}.py"))
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


@pytest.fixture
def stages(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parameter_text: str,
    set_leaf: Callable[[Path, str, object], None],
) -> Iterator[Stages]:
    """Two tiny cases in a fresh folder."""
    tiny = tmp_path / "tiny"
    shutil.copytree(_TINY, tiny, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "params.yaml").write_text(parameter_text)
    trace = tmp_path / "trace"
    monkeypatch.setenv("TINY_TRACE", str(trace))
    train = import_module("telescope_pipeline.stages.train")
    monkeypatch.setattr(train, "open_executor", lambda run: _Inline())
    # Training sets these for its own process, which here is everybody's.
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    yield Stages(
        tmp_path,
        tiny,
        trace,
        lambda name, module: monkeypatch.setitem(sys.modules, name, module),
        set_leaf,
    )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(strict)
