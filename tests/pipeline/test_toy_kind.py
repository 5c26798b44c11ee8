"""A kind of case is one folder: added to a copy of the project, it runs from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, project_builder: Callable[..., Project]
) -> Project:
    return project_builder(tmp_path_factory.mktemp("toy"), short=False)


def test_nothing_but_the_folder_and_the_parameters_is_new(
    project: Project, repository: Path
) -> None:
    def files(root: Path, folder: str) -> dict[str, bytes]:
        paths = (p for p in (root / folder).rglob("*") if "__pycache__" not in p.parts)
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths if p.is_file()}

    for folder in ("stages", "schemas", "telescope_core", "telescope_pipeline"):
        new = files(project.root, folder).items() - files(repository, folder).items()
        assert all(name.startswith("telescope_pipeline/cases/tiny/") for name, _ in new)
    for place in ("stages", "schemas", "telescope_pipeline"):
        named = [path for path, text in files(repository, place).items() if b"tiny" in text.split()]
        assert not named


def test_it_is_checked_like_every_other_kind(project: Project) -> None:
    assert "2 cases" in project.telescope("validate").stdout
    project.set("cases.first.training.learning_rate", -1.0)
    refused = project.telescope("validate")
    project.set("cases.first.training.learning_rate", 0.1)
    assert refused.returncode == 2
    assert "cases.first.training.learning_rate: got -1.0; expected a number above 0" in (
        refused.stderr
    )


def test_it_runs_from_data_to_report(project: Project) -> None:
    done = project.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    for case in ("first", "second"):
        results = project.root / "results" / case
        (claim,) = json.loads((results / "claims.json").read_text())
        assert claim["holds"] is True
        assert (results / "plots" / "error.png").is_file()
        assert json.loads((results / "receipt.json").read_text())
    report = (project.root / "results" / "report.html").read_text()
    assert "The error falls." in report
