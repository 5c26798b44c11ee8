"""Branches, the cache, single stages, and cases that come, go and change their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from tests.dvc.conftest import Clone

# DVC's templates use `item` and `key` themselves.
_ODD, _LONG = "item", "k" * 64


@pytest.fixture
def project(first: Clone) -> Iterator[Clone]:
    """The first clone, which is left on its branch as it was found."""
    yield first
    first.git("checkout", "-q", "-f", "main")
    first.dvc("pull", "-q")
    first.reset()
    assert first.changed() == set()
    assert json.loads(first.dvc("status", "--json")) == {}


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    yaml = YAML()
    parameters = yaml.load(path)
    change(parameters["cases"])
    yaml.dump(parameters, path)


def _train_for(steps: int) -> Callable[[dict[str, Any]], None]:
    """A number that no other test has, or DVC finds the run in its cache."""
    return lambda cases: cases["design_choices"]["training"].update(steps=steps)


def test_a_branch_brings_its_results_and_a_cleared_cache_is_filled_again(project: Clone) -> None:
    before = project.result("metrics.json", "design_choices")
    project.git("checkout", "-q", "-b", "longer")
    _edit(project.root / "params.yaml", _train_for(21))
    project.dvc("repro")
    after = project.result("metrics.json", "design_choices")
    assert after != before
    project.commit("longer")

    project.git("checkout", "-q", "main")
    project.dvc("checkout")
    assert project.result("metrics.json", "design_choices") == before
    assert json.loads(project.dvc("status", "--json")) == {}
    # What main needs alone stays; what the other branch has is kept for it.
    project.dvc("gc", "--all-branches", "-f")
    project.git("checkout", "-q", "longer")
    project.dvc("checkout")
    assert project.result("metrics.json", "design_choices") == after

    assert "Removed" in project.dvc("gc", "--workspace", "-f")
    project.git("checkout", "-q", "main")
    assert "missing-files" in project.dvc("checkout", fails=True)
    project.dvc("pull")
    assert project.result("metrics.json", "design_choices") == before


def test_a_case_is_renamed_and_another_of_its_kind_added(project: Clone) -> None:
    def rename_and_add(cases: dict[str, Any]) -> None:
        for name in (_ODD, _LONG):
            cases[name] = json.loads(json.dumps(cases["design_choices"]))
        del cases["design_choices"]

    before = project.result("history.parquet", "design_choices")
    _edit(project.root / "params.yaml", rename_and_add)
    refused = project.dvc("repro", fails=True)
    assert f"results/{_ODD}/receipt.json is missing in deps" in refused
    assert "results/design_choices/receipt.json belongs to no case" in refused
    assert "telescope wire" in refused
    project.run("telescope", "wire")
    log = project.dvc("repro")
    # A member is found by what it is made of, not by the name of its case.
    assert log.count("4 of 4 members are there already") == 2
    for name in (_ODD, _LONG):
        assert project.result("history.parquet", name) == before
    page = (project.root / "results" / "report.html").read_text()
    assert all(name in page for name in (_ODD, _LONG, "double_descent"))
    assert json.loads(project.dvc("status", "--json")) == {}


def test_a_case_is_taken_out(project: Clone) -> None:
    _edit(project.root / "params.yaml", lambda cases: cases.pop("double_descent"))
    assert "receipt.json belongs to no case" in project.dvc("repro", fails=True)
    project.run("telescope", "wire")
    log = project.dvc("repro")
    assert log.count("> telescope") == 1  # the report
    assert "double_descent" not in (project.root / "results" / "report.html").read_text()
    assert "failed" not in project.dvc("plots", "show").lower()
    shutil.rmtree(project.root / "dvc_plots")


def test_single_stages_run_alone_and_with_what_they_need(project: Clone) -> None:
    _edit(project.root / "params.yaml", _train_for(22))
    assert "up to date" in project.dvc("repro", "prepare@design_choices")
    assert "telescope train" not in project.dvc("repro", "-s", "-f", "plot@design_choices")
    log = project.dvc("repro", "metrics@design_choices")
    assert [line for line in log.splitlines() if line.startswith("> ")] == [
        "> telescope train design_choices",
        "> telescope metrics design_choices",
    ]
    assert "cannot dump a parametrized stage" in project.dvc(
        "freeze", "train@double_descent", fails=True
    )


def test_code_that_changes_no_result_can_be_accepted(project: Clone) -> None:
    with (project.root / "telescope_pipeline" / "progress.py").open("a") as code:
        code.write("# A remark.\n")
    assert "train@double_descent" in json.loads(project.dvc("status", "--json"))
    project.dvc("commit", "-f")
    assert json.loads(project.dvc("status", "--json")) == {}
    assert project.changed() == {"dvc.lock", "telescope_pipeline/progress.py"}


def test_another_parameter_file_has_a_folder_of_its_own(project: Clone) -> None:
    folder = project.root / "paper" / "mine"
    folder.mkdir()
    try:
        shutil.copy(project.root / "params.yaml", folder)
        _edit(folder / "params.yaml", lambda cases: cases.pop("double_descent"))
        project.dvc("init", "-q", "--subdir", within="paper/mine")
        project.run("telescope", "wire", within="paper/mine")
        project.dvc("repro", within="paper/mine")
        there = folder / "results" / "design_choices" / "history.parquet"
        assert there.read_bytes() == project.result("history.parquet", "design_choices")
        assert json.loads(project.dvc("status", "--json")) == {}
        seen = project.git("status", "--porcelain", "--untracked-files=all")
        assert "/results/" in seen
        assert not any(f"mine/{name}/" in seen for name in ("data", "runs", ".telescope"))
    finally:
        project.git("reset", "-q")
        shutil.rmtree(folder)
