"""Clones of the whole project, ``paper/`` included, with two small cases."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

_CONFIG = "[user]\n\tname = Tester\n\temail = tester@example.org\n[init]\n\tdefaultBranch = main\n"


@dataclass
class Clone:
    """A git clone of the project.

    Attributes:
        root: Its folder.
        environment: The environment in which a stage runs the code of the folder it runs in.
    """

    root: Path
    environment: dict[str, str]

    def run(self, *command: str, fails: bool = False, within: str = ".") -> str:
        """Run a command, check whether it fails, and return all it wrote."""
        # A stage below the root finds the clone's code only so.
        below = {} if within == "." else {"PYTHONPATH": str(self.root)}
        done = subprocess.run(
            command,
            cwd=self.root / within,
            env=self.environment | below,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3600,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout

    def dvc(self, *arguments: str, fails: bool = False, within: str = ".") -> str:
        """Run ``dvc``."""
        return self.run(sys.executable, "-m", "dvc", *arguments, fails=fails, within=within)

    def git(self, *arguments: str) -> str:
        """Run ``git``."""
        return self.run("git", *arguments)

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.git("add", "--all")
        self.git("commit", "-q", "-m", message)

    def changed(self) -> set[str]:
        """Files that differ from the commit."""
        return {line[3:] for line in self.git("status", "--porcelain").splitlines()}

    def reset(self) -> None:
        """Go back to the commit and its results."""
        self.git("checkout", "-q", ".")
        self.dvc("checkout", "-q")

    def wait_for_queue(self, seconds: float = 3600) -> str:
        """Wait until nothing in DVC's queue waits or runs, and return the last status."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(3)
            status = self.dvc("queue", "status")
            if not re.search("Queued|Running", status):
                return status
        raise AssertionError(f"the queue has not ended: {status}")

    def result(self, name: str, case: str = "double_descent") -> bytes:
        """The bytes of a result."""
        return (self.root / "results" / case / name).read_bytes()


def _small(path: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    parameters: dict[str, Any] = yaml.load(path)
    descent, choices = (parameters["cases"][c] for c in ("double_descent", "design_choices"))
    descent["seeds"] = choices["seeds"] = 2
    descent["model"]["widths"] = [2, 4]
    descent["training"]["epochs"] = 4
    descent["lens"] |= {"records": 4, "probes": 4, "deflate": 2}
    choices["training"] |= {"steps": 20, "choices": choices["training"]["choices"][:2]}
    choices["lens"]["records"] = 4
    parameters["cases"] = {"double_descent": descent, "design_choices": choices}
    parameters["tracking"]["tracker"] = "none"
    parameters["run"]["workers"] = 1
    yaml.dump(parameters, path)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("environment")
    script = folder / "telescope"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m telescope_pipeline.cli "$@"\n')
    script.chmod(0o755)
    (folder / ".gitconfig").write_text(_CONFIG)
    dropped = ("PYTEST", "GIT_", "DVC_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {
        # DVC starts its workers as `dvc`.
        "PATH": os.pathsep.join(
            [str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "HOME": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def first(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, environment: dict[str, str]
) -> Clone:
    """The project with two small cases, run once; the record is committed, all is pushed."""
    folder = tmp_path_factory.mktemp("first")
    clone = Clone(folder / "project", environment)
    listed = Clone(repository, environment).git(
        "ls-files", "-z", "--cached", "--others", "--exclude-standard"
    )
    for name in filter(None, listed.split("\0")):
        if (repository / name).exists():
            (clone.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, clone.root / name, follow_symlinks=False)
    _small(clone.root / "params.yaml")
    clone.run("git", "init", "-q")
    clone.run("telescope", "wire")
    clone.dvc("remote", "add", "-d", "store", str(folder / "store"))
    clone.commit("two small cases")
    clone.dvc("repro")
    assert clone.changed() == {"dvc.lock"}
    clone.commit("results")
    clone.dvc("push")
    clone.run("git", "init", "-q", "--bare", str(folder / "hub.git"))
    clone.git("remote", "add", "origin", str(folder / "hub.git"))
    clone.git("push", "-q", "-u", "origin", "main")
    return clone


@pytest.fixture
def clone_of(tmp_path: Path, environment: dict[str, str]) -> Callable[[Clone], Clone]:
    """Clones what another clone has pushed; nothing but git and the store is shared."""

    def make(other: Clone) -> Clone:
        url = other.git("remote", "get-url", "origin").strip()
        other.run("git", "clone", "-q", url, str(tmp_path / "second"))
        return Clone(tmp_path / "second", environment)

    return make
