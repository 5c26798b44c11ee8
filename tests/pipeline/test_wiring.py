from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from telescope_core.errors import ArtifactError, ConfigurationError
from telescope_pipeline import wiring
from telescope_pipeline.code import source_closure, stage_modules
from telescope_pipeline.parameters.kinds import KINDS
from telescope_pipeline.parameters.reading import load_parameters
from telescope_pipeline.wiring import declared, disagreements, rewrite

STAGES = ("prepare", "train", "metrics", "plot", "publish")


def test_dvc_yaml_is_in_line_with_code_and_cases(repository: Path) -> None:
    cases = list(load_parameters(repository / "params.yaml").cases)
    assert disagreements(repository, cases) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_everything_it_runs(stage: str, kind: str, repository: Path) -> None:
    deps = {line.replace("${item.kind}", kind) for line in declared(repository)[stage]}
    for path in source_closure(*stage_modules(stage, kind)):
        inside = path.relative_to(repository)
        assert deps & {each.as_posix() for each in (inside, *inside.parents)}, inside


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_nothing_that_no_kind_runs(stage: str, repository: Path) -> None:
    run = {path for kind in KINDS for path in source_closure(*stage_modules(stage, kind))}
    for line in declared(repository)[stage]:
        if line.startswith(("data/", "runs/", "results/")):
            continue
        paths = {repository / line.replace("${item.kind}", kind) for kind in KINDS}
        if all(path.is_dir() for path in paths):
            (folder,) = paths
            assert set(code_of(folder)) <= run, f"{stage} does not run all of {line}"
            continue
        assert paths & run, f"{stage} does not run {line}"
        assert all(path.is_file() for path in paths), f"DVC would miss {line} in some kind"


def code_of(folder: Path) -> list[Path]:
    """The files of a folder that DVC would see, those that only say something to type checkers
    apart."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return [p for p in found if "__pycache__" not in p.parts and p.name != "py.typed"]


def test_a_folder_stands_for_its_files_only_if_all_of_them_are_run(tmp_path: Path) -> None:
    names = {"core/whole/a.py", "core/whole/deep/b.js", "core/part/c.py", "core/d.py"}
    for name in names | {"core/part/other.py", "core/whole/__pycache__/a.pyc"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folded = set(wiring.folded(names, tmp_path))
    assert folded == {"core/whole", "core/part/c.py", "core/d.py"}
    everything = names | {"core/part/other.py"}
    assert set(wiring.folded(everything, tmp_path)) == {"core"}


def test_folders_are_named_in_the_train_stage(repository: Path) -> None:
    deps = declared(repository)["train"]
    assert "telescope_core/jacobians" in deps
    assert not any(line.startswith("telescope_core/jacobians/") for line in deps)


def test_stages_do_not_depend_on_each_others_modules(repository: Path) -> None:
    deps = declared(repository)
    assert "cases/${item.kind}/figures.py" not in deps["train"]
    assert "cases/${item.kind}/training.py" not in deps["plot"]
    assert "cases/${item.kind}/members.py" in deps["train"]
    assert not any("cases/${item.kind}/members.py" in deps[stage] for stage in ("metrics", "plot"))
    assert "telescope_core/lens.py" in deps["train"]
    assert not any(line.startswith("telescope_core/jacobians") for line in deps["plot"])


@pytest.fixture
def copy(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``dvc.yaml`` alone, to which the code is taken to belong."""
    shutil.copy(repository / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.setattr(wiring, "project_of", lambda root: root.resolve())
    original = wiring.code_dependencies
    monkeypatch.setattr(wiring, "code_dependencies", lambda stage, _: original(stage, repository))
    return tmp_path


@pytest.fixture
def cases(repository: Path) -> list[str]:
    """The names of the project's own cases."""
    return list(load_parameters(repository / "params.yaml").cases)


def test_differences_are_named_and_mended(copy: Path, cases: list[str]) -> None:
    path = copy / "dvc.yaml"
    whole = path.read_text()
    line = "        - stages/train.py\n"
    assert line in whole
    path.write_text(whole.replace(line, "        - stages/gone.py\n"))
    assert disagreements(copy, cases) == [
        "train: stages/gone.py is in deps but not imported",
        "train: stages/train.py is imported but not in deps",
    ]
    assert rewrite(copy)
    assert path.read_text() == whole
    assert not rewrite(copy)


def test_the_report_waits_for_every_case(copy: Path, cases: list[str]) -> None:
    lines = disagreements(copy, ["another", *cases[1:]])
    assert lines == [
        "report: results/another/receipt.json is missing in deps",
        f"report: results/{cases[0]}/receipt.json belongs to no case",
    ]


def test_a_pipeline_below_the_project_names_the_code_above_it(
    repository: Path, tmp_path: Path
) -> None:
    for folder in ("telescope_core", "paper"):
        (tmp_path / folder).mkdir()
    assert wiring.project_of(tmp_path / "paper") == tmp_path.resolve()
    here = wiring.code_dependencies("train", repository)
    below = wiring.code_dependencies("train", repository / "tests")
    assert below == [f"../{path}" for path in here]


@pytest.mark.parametrize("folder", ["paper", "paper/reduced"])
def test_pipelines_below_are_in_line_with_the_projects_own(folder: str, repository: Path) -> None:
    root = repository / folder
    assert (root / "dvc.yaml").read_text() == wiring.written(root)
    assert disagreements(root, list(load_parameters(root / "params.yaml").cases)) == []


def test_a_pipeline_without_code_above_it_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="telescope_core"):
        wiring.project_of(tmp_path)


@pytest.mark.parametrize("text", ["", "stages: 3\n", "stages: {train: [1\n"])
def test_a_broken_pipeline_file_is_one_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=r"dvc\.yaml: not a pipeline"):
        declared(tmp_path)
