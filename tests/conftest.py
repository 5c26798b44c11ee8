"""Fixtures shared by all tests."""

from __future__ import annotations

import copy
import io
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from support import shapes
from support.dvc_status import stages_to_run

shapes.install()

REPOSITORY = Path(__file__).resolve().parent.parent

_CODE = ("telescope_core", "telescope_pipeline", "schemas", "stages")
_FILES = ("dvc.yaml", ".dvcignore", ".gitignore")

_PUBLISH = '''\
"""Publishes nothing: the receipt holds the hash of the claims."""

from pathlib import Path

from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout


def run(case_name: str, parameters_path: Path) -> None:
    results = Layout.beside(parameters_path).results(case_name)
    files.write_json(results / "receipt.json", {"claims": files.sha256(results / "claims.json")})
'''

_REPORT = '''\
"""A report without content."""

from pathlib import Path

from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout


def run(parameters_path: Path) -> None:
    files.write_text(Layout.beside(parameters_path).root / "results" / "report.html", "<p>")
'''


def _set_leaf(path: Path, dotted: str, value: object) -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    parameters = yaml.load(path)
    *keys, last = dotted.split(".")
    section = parameters
    for key in keys:
        section = section[key]
    assert last in section, f"{path.name} has no {dotted}"
    section[last] = value
    yaml.dump(parameters, path)


@pytest.fixture(scope="session")
def set_leaf() -> Callable[[Path, str, object], None]:
    """Gives a leaf of a YAML file, named by its dotted path, another value."""
    return _set_leaf


@pytest.fixture(scope="session")
def parameter_text() -> str:
    """Parameters with two tiny cases, ``first`` and ``second``."""
    return tiny_parameters()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of this project."""
    return REPOSITORY


@dataclass
class Project:
    """A copy of the project with a kind of its own, ``tiny``, and two cases of it.

    Attributes:
        root: Its folder, a git and DVC repository.
        environment: The environment in which its own code is the one that is imported.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``telescope`` with these arguments."""
        return [sys.executable, "-m", "telescope_pipeline.cli", *arguments]

    def telescope(
        self, *arguments: str, timeout: float = 600, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``telescope`` in the project's folder."""
        return self._run(self.command(*arguments), timeout, environment)

    def dvc(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run ``dvc`` in the project's folder."""
        return self._run([sys.executable, "-m", "dvc", *arguments], timeout, {})

    def git(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``git`` in the project's folder."""
        return self._run(["git", *arguments], 60, {})

    def set(self, dotted: str, value: object) -> None:
        """Give a leaf of ``params.yaml`` another value."""
        _set_leaf(self.root / "params.yaml", dotted, value)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the first occurrence of a text in a file."""
        path = self.root / name
        text = path.read_text()
        assert old in text, f"{name} does not contain {old!r}"
        path.write_text(text.replace(old, new, 1))

    def changed(self) -> set[str]:
        """Name the stages that DVC would run."""
        return stages_to_run(self.root)

    def _run(
        self, command: list[str], timeout: float, environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def tiny_parameters() -> str:
    """The project's own settings with two tiny cases, ``first`` and ``second``, as YAML."""
    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load(REPOSITORY / "params.yaml")
    case = {
        "kind": "tiny",
        "seeds": 2,
        "data": {"label_noise": 0.1},
        "model": {"widths": [2, 3]},
        "training": {"epochs": 6, "learning_rate": 0.1},
        "lens": {"stride": 2},
        "claims": {"standard_errors": 2.0},
        "plot": {"dpi": 60},
    }
    parameters["run"] |= {"seed": 0, "threads": 1, "workers": 1}
    parameters["tracking"]["tracker"] = "none"
    parameters["cases"] = {"first": case, "second": copy.deepcopy(case)}
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump(parameters, text)
    return text.getvalue()


def build_project(folder: Path, *, short: bool = True) -> Project:
    """Copy the project to ``folder`` and add the tiny kind, which is one folder and two cases.

    Args:
        folder: Where to put it.
        short: Whether publish and report do next to nothing.
    """
    root = folder / "project"
    root.mkdir(parents=True)
    skipped = shutil.ignore_patterns("__pycache__")
    for name in _CODE:
        shutil.copytree(REPOSITORY / name, root / name, symlinks=True, ignore=skipped)
    for name in _FILES:
        shutil.copy(REPOSITORY / name, root / name)
    tiny = root / "telescope_pipeline" / "cases" / "tiny"
    shutil.copytree(REPOSITORY / "tests" / "tiny_case", tiny, ignore=skipped)
    if short:
        (root / "stages" / "publish.py").write_text(_PUBLISH)
        (root / "stages" / "report.py").write_text(_REPORT)
    (root / "params.yaml").write_text(tiny_parameters())
    project = Project(root, _environment(folder, root))
    wired = project.telescope("wire")
    assert wired.returncode == 0, wired.stderr
    assert project.git("init", "-q").returncode == 0
    assert project.dvc("init", "-q").returncode == 0
    shutil.copy(REPOSITORY / ".dvc" / "config", root / ".dvc" / "config")
    shutil.copy(REPOSITORY / ".dvcignore", root / ".dvcignore")
    return project


def _environment(folder: Path, root: Path) -> dict[str, str]:
    scripts = folder / "bin"
    scripts.mkdir()
    script = scripts / "telescope"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m telescope_pipeline.cli "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return kept | {
        "PYTHONPATH": str(root),
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh copy of the project with two tiny cases, ``first`` and ``second``."""
    return build_project(tmp_path)


@pytest.fixture(scope="session")
def project_builder() -> Callable[[Path], Project]:
    """Builds a project in a folder, for fixtures of wider scope."""
    return build_project
