"""The stages under DVC: what reruns, and what does not."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Project


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, project_builder: Callable[..., Project]
) -> Project:
    """A project with a kind of its own that has run once; tests leave it as they found it."""
    project = project_builder(tmp_path_factory.mktemp("finished"), short=False)
    done = project.dvc("repro")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture
def parameters(finished: Project) -> Iterator[Path]:
    path = finished.root / "params.yaml"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def _child_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _hashes(project: Project, *folders: str) -> dict[str, bytes]:
    paths = (path for folder in folders for path in (project.root / folder).rglob("*"))
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


def test_everything_is_made_and_git_sees_none_of_it(finished: Project) -> None:
    for name in ("history.parquet", "metrics.json", "claims.json", "figures.json", "receipt.json"):
        assert (finished.root / "results" / "second" / name).is_file()
        assert (finished.root / "results" / "first" / name).is_file()
    for case in ("first", "second"):
        (claim,) = json.loads((finished.root / "results" / case / "claims.json").read_text())
        assert claim["holds"] is True
    assert "The error falls." in (finished.root / "results" / "report.html").read_text()
    new = finished.git("status", "--short", "--untracked-files=all").stdout
    assert "dvc.lock" in new
    for folder in ("data/", "runs/", "results/", "timing/", ".telescope/"):
        assert folder not in new
    ignores = {path.relative_to(finished.root) for path in finished.root.rglob(".gitignore")}
    assert ignores == {Path(".gitignore"), Path(".dvc/.gitignore")}


def test_nothing_but_the_folder_and_the_parameters_is_new(
    finished: Project, repository: Path
) -> None:
    def files(root: Path, folder: str) -> dict[str, bytes]:
        paths = (p for p in (root / folder).rglob("*") if "__pycache__" not in p.parts)
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in paths if p.is_file()}

    for folder in ("stages", "schemas", "telescope_core", "telescope_pipeline"):
        new = files(finished.root, folder).items() - files(repository, folder).items()
        assert all(name.startswith("telescope_pipeline/cases/tiny/") for name, _ in new)
    for place in ("stages", "schemas", "telescope_pipeline"):
        named = [path for path, text in files(repository, place).items() if b"tiny" in text.split()]
        assert not named


def test_it_is_checked_like_every_other_kind(finished: Project) -> None:
    assert "2 cases" in finished.telescope("validate").stdout
    finished.set("cases.first.training.learning_rate", -1.0)
    refused = finished.telescope("validate")
    finished.set("cases.first.training.learning_rate", 0.1)
    assert refused.returncode == 2
    assert "cases.first.training.learning_rate: got -1.0; expected a number above 0" in (
        refused.stderr
    )


def test_a_second_run_does_nothing_within_five_seconds(finished: Project) -> None:
    before = _child_seconds()
    again = finished.dvc("repro")
    # Processor time, since other tests may keep the machine busy.
    assert _child_seconds() - before < 5
    assert "Running stage" not in again.stdout
    assert "up to date" in again.stdout


@pytest.mark.parametrize(
    ("leaf", "value", "stages"),
    [
        ("cases.first.data.label_noise", 0.2, {"prepare@first"}),
        ("cases.first.lens.stride", 3, {"train@first"}),
        ("cases.first.seeds", 3, {"prepare@first", "train@first"}),
        ("cases.first.claims.standard_errors", 9.0, {"metrics@first", "publish@first"}),
        ("cases.first.plot.dpi", 72, {"plot@first"}),
        ("run.workers", 2, set()),
        ("run.executor", "tcp://host:8786", set()),
        ("tracking.project", "other", {"publish@first", "publish@second"}),
        ("run.seed", 1, {f"{s}@{c}" for s in ("prepare", "train") for c in ("first", "second")}),
    ],
)
@pytest.mark.usefixtures("parameters")
def test_a_changed_leaf_names_the_stages_that_use_it(
    leaf: str, value: object, stages: set[str], finished: Project
) -> None:
    finished.set(leaf, value)
    # The page shows all settings of a case.
    assert finished.changed() == stages | ({"report"} if leaf.startswith("cases.") else set())


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("telescope_pipeline/cases/tiny/figures.py", {"plot"}),
        ("telescope_pipeline/cases/tiny/claims.py", {"metrics"}),
        ("telescope_pipeline/cases/tiny/metrics.py", {"metrics", "plot"}),
        ("telescope_pipeline/cases/tiny/training/train.py", {"train"}),
        ("telescope_pipeline/cases/depth/schema.py", set()),
        ("telescope_pipeline/study/drawing/__init__.py", {"plot"}),
        ("telescope_core/lens/lens.py", {"train"}),
        ("telescope_core/callbacks/lightning.py", set()),
    ],
)
def test_a_changed_module_names_the_stages_that_run_it(
    module: str, stages: set[str], finished: Project
) -> None:
    path = finished.root / module
    before = path.read_text()
    path.write_text(before + "\n# changed\n")
    try:
        wanted = {f"{stage}@{case}" for stage in stages for case in ("first", "second")}
        assert finished.changed() == wanted
    finally:
        path.write_text(before)


def test_a_comment_in_the_claims_runs_the_metrics_and_nothing_else(finished: Project) -> None:
    lock = finished.root / "dvc.lock"
    path = finished.root / "telescope_pipeline" / "cases" / "tiny" / "claims.py"
    before = path.read_text(), lock.read_bytes()
    path.write_text(before[0] + "\n# changed\n")
    try:
        again = finished.dvc("repro", "publish@first")
        assert re.findall(r"Running stage '(\S+)'", again.stdout) == ["metrics@first"]
    finally:
        path.write_text(before[0])
        # The results are the same bytes, so it holds again.
        lock.write_bytes(before[1])
    assert finished.changed() == set()


def test_another_look_is_drawn_at_once_and_not_published(finished: Project) -> None:
    lock, parameters = finished.root / "dvc.lock", finished.root / "params.yaml"
    kept = {path: path.read_bytes() for path in (lock, parameters)}
    picture = finished.root / "results" / "first" / "plots" / "error.png"
    before, seconds = picture.read_bytes(), _child_seconds()
    finished.set("cases.first.plot.dpi", 72)
    again = finished.dvc("repro")
    assert _child_seconds() - seconds < 10
    assert re.findall(r"Running stage '(\S+)'", again.stdout) == ["plot@first", "report"]
    assert picture.read_bytes() != before
    for path, content in kept.items():
        path.write_bytes(content)
    assert finished.dvc("checkout").returncode == 0
    assert picture.read_bytes() == before


def test_results_come_back_from_the_cache(finished: Project) -> None:
    before = _hashes(finished, "results")
    shutil.rmtree(finished.root / "results")
    checkout = finished.dvc("checkout")
    assert checkout.returncode == 0, checkout.stderr
    assert _hashes(finished, "results") == before
    assert finished.changed() == set()


def test_nothing_reruns_without_scratch_and_timing(finished: Project, tmp_path: Path) -> None:
    for name in (".telescope", "timing"):
        (finished.root / name).rename(tmp_path / name)
    assert finished.changed() == set()
    for name in (".telescope", "timing"):
        (tmp_path / name).rename(finished.root / name)


def test_plots_and_metrics_can_be_shown(finished: Project) -> None:
    metrics = finished.dvc("metrics", "show")
    assert metrics.returncode == 0
    assert "width-0003" in metrics.stdout
    shown = finished.dvc("plots", "show", "-o", "shown")
    assert shown.returncode == 0, shown.stderr
    page = (finished.root / "shown" / "index.html").read_text()
    assert "error.csv" in page
    assert "error.png" in page
    shutil.rmtree(finished.root / "shown")


def test_without_cache_the_same_bytes_are_made_again(finished: Project) -> None:
    folders = ("data/first", "runs/first", "results/first")
    before = _hashes(finished, *folders)
    # Members trained again are compared in test_processes.py.
    for name in ("data", "runs", "results", ".dvc/cache"):
        shutil.rmtree(finished.root / name, ignore_errors=True)
    (finished.root / "dvc.lock").unlink()
    again = finished.dvc("repro", "publish@first")
    assert again.returncode == 0, again.stderr
    assert _hashes(finished, *folders) == before
