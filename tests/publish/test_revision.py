"""The name of a pipeline's revision."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from telescope_pipeline.publish.revision import Revision, pipeline_revision

_PARAMETERS = "run: {seed: 0}\ntracking: {mode: offline}\n"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def committed(tmp_path: Path) -> Path:
    """A pipeline in a subfolder of a repository, all of it committed."""
    root = tmp_path / "repository" / "paper"
    root.mkdir(parents=True)
    (root / "params.yaml").write_text(_PARAMETERS)
    (root / "dvc.yaml").write_text("stages: {}\n")
    _git(root.parent, "init", "-q")
    _git(root.parent, "add", ".")
    _git(root.parent, "commit", "-q", "-m", "first")
    return root


def test_a_clean_checkout_is_named_by_its_commit(committed: Path) -> None:
    commit = _git(committed, "rev-parse", "HEAD")

    assert pipeline_revision(committed) == Revision(commit, None, dirty=False)
    assert pipeline_revision(committed).name == commit[:10]


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_a_changed_pipeline_gets_a_digest(committed: Path, name: str) -> None:
    clean = pipeline_revision(committed).name
    path = committed / name
    original = path.read_text()
    path.write_text(original + "other: 1\n")
    first = pipeline_revision(committed).name
    path.write_text(original + "other: 2\n")
    second = pipeline_revision(committed).name
    path.write_text(original)

    assert first.startswith(f"{clean}-p")
    assert second.startswith(f"{clean}-p")
    assert first != second
    assert pipeline_revision(committed).name == clean


def test_comments_and_the_tracker_are_no_part_of_it(committed: Path) -> None:
    clean = pipeline_revision(committed)
    (committed / "params.yaml").write_text("# why\nrun: {seed: 0}\ntracking: {mode: online}\n")

    # It is said that a file differs, not that the pipeline does.
    assert pipeline_revision(committed) == replace(clean, dirty=True)


def test_uncommitted_files_elsewhere_are_no_part_of_it(committed: Path) -> None:
    clean = pipeline_revision(committed)
    (committed.parent / "notes.txt").write_text("x")

    assert pipeline_revision(committed) == clean


@pytest.mark.parametrize("ignored", [True, False])
def test_a_pipeline_that_git_does_not_know_gets_a_digest(committed: Path, ignored: bool) -> None:
    other = committed.parent / "other"
    other.mkdir()
    (other / "params.yaml").write_text(_PARAMETERS)
    if ignored:
        (committed.parent / ".gitignore").write_text("/other/\n")

    assert pipeline_revision(other).digest is not None
    assert pipeline_revision(other).commit == _git(committed, "rev-parse", "HEAD")


def test_without_git_there_is_the_digest_alone(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(_PARAMETERS)
    first = pipeline_revision(tmp_path)
    (tmp_path / "params.yaml").write_text("run: {seed: 1}\n")
    second = pipeline_revision(tmp_path)

    assert first.commit is None
    assert first.name.startswith("p")
    assert first.name != second.name


def test_without_a_commit_there_is_the_digest_alone(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(_PARAMETERS)
    _git(tmp_path, "init", "-q")

    assert pipeline_revision(tmp_path).commit is None


def test_git_that_is_not_installed_is_no_error(
    committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(committed))

    assert pipeline_revision(committed).commit is None


def test_a_hook_of_another_repository_does_not_redirect(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline_revision(committed)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))

    assert pipeline_revision(committed) == expected
