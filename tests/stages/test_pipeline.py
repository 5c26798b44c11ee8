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
    tmp_path_factory: pytest.TempPathFactory, project_builder: Callable[[Path], Project]
) -> Project:
    """A project that has run once; tests leave it as they found it."""
    project = project_builder(tmp_path_factory.mktemp("finished"))
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


def _changed(project: Project) -> set[str]:
    status = project.dvc("status", "--json")
    assert status.returncode == 0, status.stderr
    return set(json.loads(status.stdout))


def _hashes(project: Project, *folders: str) -> dict[str, bytes]:
    paths = (path for folder in folders for path in (project.root / folder).rglob("*"))
    return {str(path): path.read_bytes() for path in paths if path.is_file()}


def test_everything_is_made_and_git_sees_none_of_it(finished: Project) -> None:
    for name in ("history.parquet", "metrics.json", "claims.json", "figures.json", "receipt.json"):
        assert (finished.root / "results" / "second" / name).is_file()
    assert (finished.root / "results" / "report.html").is_file()
    new = finished.git("status", "--short", "--untracked-files=all").stdout
    assert "dvc.lock" in new
    for folder in ("data/", "runs/", "results/", "timing/", ".telescope/"):
        assert folder not in new
    ignores = {path.relative_to(finished.root) for path in finished.root.rglob(".gitignore")}
    assert ignores == {Path(".gitignore"), Path(".dvc/.gitignore")}


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
        ("cases.first.data.label_noise", 0.2, {"prepare@first", "publish@first"}),
        ("cases.first.lens.stride", 3, {"train@first", "publish@first"}),
        ("cases.first.seeds", 3, {"prepare@first", "train@first", "publish@first"}),
        ("cases.first.claims.standard_errors", 9.0, {"metrics@first", "publish@first"}),
        ("cases.first.plot.dpi", 72, {"plot@first", "publish@first"}),
        ("run.workers", 1, set()),
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
    changed = _changed(finished)
    if leaf == "run.seed":
        changed = {name for name in changed if not name.startswith("publish")}
    assert changed == stages


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
        assert _changed(finished) == wanted
    finally:
        path.write_text(before)


def test_a_comment_in_the_claims_runs_the_metrics_and_nothing_else(finished: Project) -> None:
    path = finished.root / "telescope_pipeline" / "cases" / "tiny" / "claims.py"
    before = path.read_text()
    path.write_text(before + "\n# changed\n")
    try:
        again = finished.dvc("repro")
        ran = set(re.findall(r"Running stage '(\S+)'", again.stdout))
        assert ran == {"metrics@first", "metrics@second"}
    finally:
        path.write_text(before)
        assert finished.dvc("repro").returncode == 0


def test_results_come_back_from_the_cache(finished: Project) -> None:
    before = _hashes(finished, "results")
    shutil.rmtree(finished.root / "results")
    checkout = finished.dvc("checkout")
    assert checkout.returncode == 0, checkout.stderr
    assert _hashes(finished, "results") == before
    assert _changed(finished) == set()


def test_nothing_reruns_without_scratch_and_timing(finished: Project) -> None:
    shutil.rmtree(finished.root / ".telescope")
    shutil.rmtree(finished.root / "timing")
    assert _changed(finished) == set()


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
    for name in ("data", "runs", "results", ".telescope", ".dvc/cache"):
        shutil.rmtree(finished.root / name, ignore_errors=True)
    (finished.root / "dvc.lock").unlink()
    again = finished.dvc("repro", "publish@first")
    assert again.returncode == 0, again.stderr
    assert _hashes(finished, *folders) == before
