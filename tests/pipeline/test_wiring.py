"""What is written into ``dvc.yaml``: receipts, and pipelines below the project."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from telescope_core.errors import ArtifactError, ConfigurationError
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.schemas.sections import Case
from telescope_pipeline.wiring import check, disagreements, project_of, rewrite, written

_ALL = [".", "paper", "paper/reduced"]


def _cases(root: Path) -> dict[str, Case]:
    return load_parameters(root / "params.yaml").cases


@pytest.mark.parametrize("folder", _ALL)
def test_pipelines_are_in_line_with_the_cases_and_each_other(folder: str, repository: Path) -> None:
    root = repository / folder
    assert disagreements(root, _cases(root)) == []
    assert (root / "dvc.yaml").read_text() == written(root, _cases(root))


def test_the_projects_own_pipeline_is_short(repository: Path) -> None:
    stages = (repository / "dvc.yaml").read_text().partition("\n# Written from the cases")[0]
    assert len(stages.splitlines()) <= 120


@pytest.fixture
def copy(tmp_path: Path, repository: Path) -> Path:
    """A project without code, and a pipeline below it."""
    (tmp_path / "telescope_core").mkdir()
    for folder in _ALL[:2]:
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copy(repository / folder / name, tmp_path / folder / name)
    return tmp_path


def test_the_report_waits_for_every_case(copy: Path) -> None:
    whole = (copy / "dvc.yaml").read_text()
    cases = _cases(copy)
    first, *others = cases
    renamed = {"another": cases[first]} | {name: cases[name] for name in others}
    assert disagreements(copy, renamed) == [
        "report: results/another/receipt.json is missing in deps",
        f"report: results/{first}/receipt.json belongs to no case",
    ]
    path = copy / "dvc.yaml"
    line = f"      results/{others[2]}/receipt.json, results/{others[2]}/figures.json,\n"
    assert line in whole
    path.write_text(whole.replace(line, ""))
    assert rewrite(copy)
    assert path.read_text() == whole
    assert not rewrite(copy)


def test_plots_go_with_their_case(copy: Path) -> None:
    path, cases, yaml = copy / "dvc.yaml", _cases(copy), YAML(typ="safe", pure=True)
    whole = path.read_text()
    descent, depth = cases["double_descent"], cases["depth"]
    for some in ({"depth": depth}, {"depth": depth, "one": descent, "another": descent}, cases):
        path.write_text(written(copy, some))
        found = yaml.load(path)
        plotted = [re.findall(r"results/(\w+)/plots", str(plot)) for plot in found["plots"]]
        assert {case for (case,) in plotted} == {
            name
            for name, case in some.items()
            if case.kind in ("double_descent", "grokking_polynomial")
        }
        assert len({*map(str, found["plots"])}) == len(plotted)
        assert found["artifacts"]["report"]["path"] in found["stages"]["report"]["outs"]
    assert path.read_text() == whole


def test_a_pipeline_below_follows_the_projects_own(copy: Path) -> None:
    path = copy / "dvc.yaml"
    path.write_text(path.read_text().replace("telescope prepare ${key}", "telescope make ${key}"))
    below = copy / "paper"
    (line,) = disagreements(below, _cases(below))
    assert "differs from" in line
    assert rewrite(below)
    assert "telescope make ${key}" in (below / "dvc.yaml").read_text()
    assert disagreements(below, _cases(below)) == []


def test_a_pipeline_below_names_the_code_above_it_and_leaves_results_to_git(copy: Path) -> None:
    own, below = (
        YAML(typ="safe", pure=True).load(copy / folder / "dvc.yaml")["stages"]
        for folder in _ALL[:2]
    )
    results = ("data/", "runs/", "results/")
    for name in ("prepare", "train", "metrics", "plot", "publish"):
        here, there = own[name]["do"], below[name]["do"]
        assert there["deps"] == [
            path if path.startswith(results) else f"../{path}" for path in here["deps"]
        ]
        assert there["params"] == here["params"]
        for key in ("outs", "metrics", "plots"):
            assert there.get(key) == (
                [{path: {"cache": False}} for path in here[key]] if key in here else None
            )
    for case in _cases(copy / "paper"):
        assert f"results/{case}/receipt.json" in below["report"]["deps"]


def test_a_pipeline_without_code_above_it_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="telescope_core"):
        project_of(tmp_path)


def test_a_missing_pipeline_is_one_error(copy: Path) -> None:
    (copy / "dvc.yaml").unlink()
    with pytest.raises(ArtifactError, match=r"dvc\.yaml: no such file"):
        disagreements(copy, _cases(copy))


def test_a_case_is_neither_left_out_of_the_report_nor_kept_in_it(copy: Path) -> None:
    path, cases = copy / "params.yaml", _cases(copy)
    check(path, cases)
    first = next(iter(cases))
    with pytest.raises(ConfigurationError, match="telescope wire") as raised:
        check(path, {name: case for name, case in cases.items() if name != first})
    assert f"results/{first}/receipt.json belongs to no case" in str(raised.value)
    more = cases | {"another": cases[first]}
    with pytest.raises(ConfigurationError, match="another"):
        check(path, more)
    check(copy / "other.yaml", more)  # no pipeline's
