"""What people type around ``dvc repro``, in the whole project with the real DVC."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.dvc.conftest import Clone

_EPOCHS = "cases.double_descent.training.epochs=5"
_WIDTHS = "cases.double_descent.model.widths=[2,4,6]"


@pytest.fixture
def project(first: Clone) -> Iterator[Clone]:
    """The first clone, which is left as it was found."""
    yield first
    first.reset()
    shutil.rmtree(first.root / "dvc_plots", ignore_errors=True)
    assert first.changed() == set()


def test_nothing_of_paper_is_seen_and_everything_is_up_to_date(project: Clone) -> None:
    assert json.loads(project.dvc("status", "--json")) == {}
    assert "up to date" in project.dvc("pull")
    project.dvc("checkout")
    assert project.changed() == set()
    for folder in ("paper", "paper/reduced"):
        assert "report" in project.dvc("stage", "list", within=folder)


def test_plots_are_shown_without_failures(project: Clone) -> None:
    assert "failed" not in project.dvc("plots", "show").lower()
    page = (project.root / "dvc_plots" / "index.html").read_text()
    for title in ("errors by width", "p_test over p_train", "trajectories.csv"):
        assert title in page
    assert "grokking" not in page  # no such case here
    assert "results/report.html" in project.run("cat", "dvc.yaml")


def test_another_clone_gets_the_results(project: Clone, clone_of: Callable[[Clone], Clone]) -> None:
    second = clone_of(project)
    assert "`dvc pull` brings what was pushed" in _words(second.run("telescope", "doctor"))
    second.dvc("pull")
    assert second.result("history.parquet") == project.result("history.parquet")
    assert json.loads(second.dvc("status", "--json")) == {}
    assert "up to date" in second.dvc("repro")


def test_a_clone_without_a_store_is_told_what_to_do(
    project: Clone, clone_of: Callable[[Clone], Clone]
) -> None:
    second = clone_of(project)
    second.dvc("remote", "remove", "store")
    assert "no default remote set" in second.dvc("pull", fails=True)
    assert "`dvc remote add -d store FOLDER`" in _words(second.run("telescope", "doctor"))


def test_an_experiment_in_the_workspace_is_compared_with_the_commit(project: Clone) -> None:
    before = project.result("metrics.json")
    project.dvc("exp", "run", "-n", "in-place", "-S", _EPOCHS)
    assert project.changed() == {"dvc.lock", "params.yaml"}
    assert project.result("metrics.json") != before
    assert re.search(r"training\.epochs +4 +5", project.dvc("params", "diff"))
    assert "width.0004.test_mse " in project.dvc("metrics", "diff", "HEAD")
    project.dvc("plots", "diff", "HEAD")
    page = (project.root / "dvc_plots" / "index.html").read_text()
    assert '"rev": "HEAD"' in page
    assert '"rev": "workspace"' in page
    project.reset()
    assert project.result("metrics.json") == before


def test_experiments_in_copies_find_members_and_are_shown_applied_and_shared(
    project: Clone, clone_of: Callable[[Clone], Clone]
) -> None:
    project.dvc("exp", "run", "--queue", "-n", "longer", "-S", _EPOCHS)
    project.dvc("exp", "run", "--queue", "-n", "wider", "-S", _WIDTHS)
    project.dvc("queue", "start", "-j", "2")
    status = project.wait_for_queue()
    assert len(re.findall("Success", status)) == 2, status
    # The members of the widths that were there before are found from the copy.
    assert "4 of 6 members are there already" in project.dvc("queue", "logs", "wider")
    assert project.changed() == set()
    members = len(list((project.root / ".telescope" / "members").iterdir()))

    # Forced, so that DVC's own cache of runs does not stand in for the members.
    log = project.dvc("exp", "run", "--temp", "-f", "-n", "again", "-S", _WIDTHS)
    assert "6 of 6 members are there already" in log
    assert len(list((project.root / ".telescope" / "members").iterdir())) == members

    shown = project.dvc("exp", "show", "--csv")
    assert all(name in shown for name in ("longer", "wider", "again"))

    project.dvc("exp", "apply", "wider")
    assert b"0006" in project.result("metrics.json")
    assert json.loads(project.dvc("status", "--json")) == {}
    wider = project.result("history.parquet")

    project.dvc("exp", "push", "origin", "longer", "wider")
    second = clone_of(project)
    assert "longer" in second.dvc("exp", "list", "origin")
    second.dvc("exp", "pull", "origin", "wider")
    second.dvc("exp", "apply", "wider")
    assert second.result("history.parquet") == wider


def test_results_are_compared_with_those_of_an_earlier_commit(project: Clone) -> None:
    project.dvc("exp", "run", "-n", "later", "-S", _EPOCHS)
    before = project.root.parent / "before"
    project.git("worktree", "add", "-q", str(before), "HEAD")
    try:
        cache = str(project.root / ".dvc" / "cache")
        project.dvc("cache", "dir", "--local", cache, within="../before")
        project.dvc("checkout", within="../before")
        project.run("telescope", "report", "--against", str(before))
        assert (project.root / "results" / "comparison.html").is_file()
    finally:
        project.git("worktree", "remove", "--force", str(before))
        (project.root / "results" / "comparison.html").unlink(missing_ok=True)


def _words(text: str) -> str:
    """The text without the line breaks of a table."""
    return " ".join(text.split())
