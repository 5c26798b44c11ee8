"""The report beside the results of another revision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from telescope_core.errors import ArtifactError
from telescope_pipeline.cli import app
from telescope_pipeline.report import build_report
from telescope_pipeline.report.comparison import compare
from telescope_pipeline.stages.report import run as report_stage
from telescope_pipeline.stages.report import run_against
from telescope_pipeline.store.folders import Layout


@pytest.fixture
def before(project: Any, tmp_path: Path) -> Path:
    """A copy of the project as it was."""
    return Path(shutil.copytree(project.root, tmp_path / "before"))


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _compare(project: Any, before: Path) -> Any:
    return compare(Layout(project.root), before, list(project.parameters.cases))


def test_equal_results_have_no_difference(project: Any, before: Path) -> None:
    found = _compare(project, before)
    assert found.changes == ()
    assert found.same == 4
    assert (found.new, found.gone) == ((), ())
    assert all(changed == 0 and count > 0 for changed, count in found.metrics.values())
    assert found.revisions


def test_verdicts_numbers_and_claims_of_one_side(project: Any, before: Path) -> None:
    here, there = (root / "results" / "wide" / "claims.json" for root in (project.root, before))
    first, second = (claim["id"] for claim in json.loads(here.read_text()))
    _edit(there, lambda claims: claims[0].update(holds=not claims[0]["holds"]))
    _edit(here, lambda claims: claims[1].update(observed={"another": 0.125}))
    found = _compare(project, before)
    assert [change.id for change in found.changes] == [first, second]
    assert found.changes[0].held is not found.changes[0].holds
    assert (found.turned, found.same) == (1, 2)
    assert "0.125" in found.changes[1].now[0].text

    _edit(there, lambda claims: claims.pop(1))
    change = next(change for change in _compare(project, before).changes if change.id == second)
    assert change.held is None
    assert change.before == ()


def test_metrics_that_differ_are_counted(project: Any, before: Path) -> None:
    (_, count) = _compare(project, before).metrics["plain"]
    _edit(before / "results" / "plain" / "metrics.json", lambda metrics: metrics.update(added=1.5))
    assert _compare(project, before).metrics["plain"] == (1, count + 1)


def test_cases_of_one_side(project: Any, before: Path) -> None:
    (before / "results" / "plain").rename(before / "results" / "older")
    found = _compare(project, before)
    assert (found.new, found.gone) == (("plain",), ("older",))


def test_a_page_of_its_own_that_leaves_the_report_alone(project: Any, before: Path) -> None:
    claims = before / "results" / "wide" / "claims.json"
    _edit(claims, lambda content: content[0].update(holds=not content[0]["holds"]))
    report_stage(project.parameters_path)
    report = (project.root / "results" / "report.html").read_bytes()
    done = CliRunner().invoke(
        app, ["report", "--against", str(before), "--params", str(project.parameters_path)]
    )
    assert done.exit_code == 0, done.output
    page = (project.root / "results" / "comparison.html").read_text()
    assert 'id="comparison"' in page
    assert "1 claim has another verdict, 0 the same with other numbers, 3 the same" in page
    assert (project.root / "results" / "report.html").read_bytes() == report
    assert 'id="comparison"' not in report.decode()


def test_text_of_the_other_side_is_not_markup(project: Any, before: Path) -> None:
    claims = before / "results" / "wide" / "claims.json"
    hostile = "<script>alert('x')</script>"
    _edit(claims, lambda content: content[0].update(id=hostile, statement=hostile))
    assert hostile not in build_report(project.root, project.parameters, before)


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"id": "a"}]'])
def test_damaged_claims_name_their_file(project: Any, before: Path, content: str) -> None:
    path = before / "results" / "wide" / "claims.json"
    path.write_text(content)
    with pytest.raises(ArtifactError, match=r"claims\.json"):
        run_against(project.parameters_path, before)
    assert not (project.root / "results" / "comparison.html").exists()


def test_a_folder_without_results(project: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no results to compare with"):
        run_against(project.parameters_path, tmp_path)
