"""What lies in ``dist/`` (``make dist``) is installed into fresh environments and tried there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_LENS = """
import importlib.util
import torch
from telescope_core import TelescopeLens

torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = torch.nn.MSELoss()
x, y = torch.randn(20, 3), torch.randn(20, 1)
lens = TelescopeLens(model, optimizer, loss, x, y, {"test": x[:5]}, probes="exact", stride=1)
for _ in range(5):
    with lens.step(torch.arange(20)):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
record = lens.snapshot().to_record()
assert record["step"] == 5
# A linear model has at most as many as it has weights.
assert 0 < record["train/effective_parameters"] < 4
assert importlib.util.find_spec("pandas") is None, "the lens alone brings no pandas"
"""


class _Environment:
    """A virtual environment in a folder of its own, in which nothing of the repository is seen."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        self._constraints = repository / "constraints.txt"
        self.run(sys.executable, "-m", "venv", str(folder / "venv"))

    def run(self, program: str, *arguments: str, code: int = 0) -> str:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "WANDB"))}
        path = f"{self.folder / 'venv' / 'bin'}{os.pathsep}{kept['PATH']}"
        done = subprocess.run(
            [program, *arguments],
            cwd=self.folder,
            env=kept | {"PATH": path, "HOME": str(self.folder), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def python(self, *arguments: str, code: int = 0) -> str:
        return self.run(str(self.folder / "venv" / "bin" / "python"), *arguments, code=code)

    def install(self, what: str) -> None:
        self.python("-m", "pip", "install", "--no-compile", "-c", str(self._constraints), what)

    def telescope(self, *arguments: str, code: int = 0) -> str:
        return self.run(str(self.folder / "venv" / "bin" / "telescope"), *arguments, code=code)


@pytest.fixture
def environment(repository: Path) -> Iterator[_Environment]:
    # A gigabyte, which pytest's own folders would keep.
    with tempfile.TemporaryDirectory(prefix="telescope-release-") as folder:
        yield _Environment(Path(folder), repository)


def _built(repository: Path, pattern: str) -> Path:
    built = sorted((repository / "dist").glob(pattern))
    assert len(built) == 1, f"dist/ holds {built}, expected one {pattern}: run make dist"
    return built[0]


def test_the_sdist_is_built_and_holds_the_lens(repository: Path, environment: _Environment) -> None:
    environment.install(str(_built(repository, "telescope_lens-*.tar.gz")))
    environment.python("-W", "error::SyntaxWarning", "-c", _LENS)
    environment.python("-m", "pip", "check")


def test_the_wheel_holds_the_lens_and_the_pipeline(
    repository: Path, environment: _Environment
) -> None:
    wheel = _built(repository, "telescope_lens-*.whl")
    environment.install(str(wheel))
    environment.python("-c", _LENS)
    # Without the extra, one line says what is missing.
    assert "telescope-lens[pipeline,wandb]" in environment.telescope("--help", code=1)

    environment.install(f"{wheel}[pipeline,wandb]")
    environment.python("-m", "pip", "check")
    assert "validate" in environment.telescope("--help")
    assert f"telescope {wheel.name.split('-')[1]}" in environment.telescope("--version")
    environment.telescope("init", "mine")
    parameters = str(environment.folder / "mine" / "params.yaml")
    assert "valid" in environment.telescope("validate", parameters)
    # The table that comes with the package, verified while it is read.
    rows = (
        "from telescope_pipeline.study.datasets.tabular import table\n"
        "print(len(table('diamonds').target))\n"
    )
    assert environment.python("-c", rows).split()[-1] == "53940"
