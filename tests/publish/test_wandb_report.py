"""``telescope report --wandb``: one page a revision, saved and read back by the real client."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from support.loopback import KEY
from telescope_core.errors import ArtifactError, TrackerError
from telescope_pipeline.publish.sync import sync
from telescope_pipeline.report.wandb_page import report_page
from telescope_pipeline.stages.publish import run as publish_stage
from telescope_pipeline.stages.report import run_wandb
from telescope_pipeline.store.folders import Layout

pytest.importorskip("wandb_workspaces", reason="the extra 'reports' is not installed")


@pytest.fixture
def published(project: Any, online: Any) -> Any:
    publish_stage("wide", project.parameters_path)
    assert {run.state for run in sync(Layout(project.root), ["wide"])} == {"online"}
    return project


def _text(server: Any, number: str) -> str:
    return json.dumps(json.loads(server.views[number]["spec"]), ensure_ascii=False)


def test_a_report_shows_claims_curves_pictures_and_artifacts(published: Any, online: Any) -> None:
    url = run_wandb(published.parameters_path)

    assert online.unknown == []
    ((number, view),) = online.views.items()
    assert number in url
    group = json.loads((published.results() / "receipt.json").read_text())["group"]
    assert view["displayName"] == f"Telescope at revision {group}"
    text = _text(online, number)
    claims = json.loads((published.results() / "claims.json").read_text())
    held = sum(claim["holds"] for claim in claims)
    assert f"{held} of {len(claims)} claims hold" in text
    for claim in claims:
        assert claim["statement"].replace("|", "\\\\|") in text
    for expected in ("train/mse", "test/effective_parameters", "plots/error", "wide-data", group):
        assert expected in text
    assert "No earlier revision" in text
    assert "stderr/" not in text


def test_the_same_revision_keeps_its_page(published: Any, online: Any) -> None:
    first = run_wandb(published.parameters_path)
    assert run_wandb(published.parameters_path) == first
    assert len(online.views) == 1


def test_another_revision_is_compared_with_the_one_before(published: Any, online: Any) -> None:
    run_wandb(published.parameters_path)
    before = json.loads((published.results() / "receipt.json").read_text())["group"]
    content = json.loads(published.parameters_path.read_text())
    content["run"]["seed"] = 5
    published.parameters_path.write_text(json.dumps(content))
    claims = json.loads((published.results() / "claims.json").read_text())
    claims[0]["holds"] = not claims[0]["holds"]
    (published.results() / "claims.json").write_text(json.dumps(claims))
    publish_stage("wide", published.parameters_path)
    assert {run.state for run in sync(Layout(published.root), ["wide"])} == {"online"}
    run_wandb(published.parameters_path)

    assert len(online.views) == 2
    text = _text(online, list(online.views)[-1])
    assert f"Previous revision: `{before}`" in text
    assert f"| wide | {claims[0]['id']} |" in text
    assert f"| wide | {claims[1]['id']} |" not in text


def test_runs_that_are_not_there_are_named(project: Any, online: Any) -> None:
    publish_stage("wide", project.parameters_path)
    with pytest.raises(TrackerError, match="runs of wide; run `telescope sync` first"):
        run_wandb(project.parameters_path)
    assert online.views == {}


@pytest.mark.parametrize("operation", ["upsertView", "SpecificReport"])
def test_a_page_that_was_not_shown_back_is_not_called_saved(
    published: Any, online: Any, operation: str
) -> None:
    online.misbehave = lambda path, asked: 400 if asked == operation else None
    with pytest.raises(TrackerError, match="the report was not saved"):
        run_wandb(published.parameters_path)


def test_what_another_tracker_was_told_is_left_out_and_said(
    published: Any, online: Any, caplog: pytest.LogCaptureFixture
) -> None:
    published.configure(tracker="jsonl")
    publish_stage("plain", published.parameters_path)
    published.configure(tracker="wandb")
    run_wandb(published.parameters_path)

    assert "report: plain is left out, it was published to jsonl" in caplog.text
    assert "wide" not in caplog.text
    ((number, view),) = online.views.items()
    assert view["description"].startswith("1 case studies")
    assert "plain-results" not in _text(online, number)
    assert "wide-results" in _text(online, number)


def test_on_the_terminal_a_case_published_elsewhere_is_said_to_be_left_out(project: Any) -> None:
    project.configure(tracker="jsonl")
    publish_stage("plain", project.parameters_path)
    command = [sys.executable, "-m", "telescope_pipeline.cli", "report", "--wandb"]
    done = subprocess.run(
        [*command, "--params", str(project.parameters_path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "report: plain is left out, it was published to jsonl" in done.stderr
    assert "no case was published to Weights & Biases" in done.stderr


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"tracker": "wandb", "group": "a", "runs": [{}]}']
)
def test_a_damaged_receipt_is_named(project: Any, content: str) -> None:
    (project.results() / "receipt.json").write_text(content)
    layout = Layout(project.root)
    named = r"receipt\.json: not a receipt; run `telescope publish wide` again"
    with pytest.raises(ArtifactError, match=named):
        sync(layout, ["wide"])
    with pytest.raises(ArtifactError, match=named):
        report_page(project.parameters, layout)


def test_without_publication_there_is_nothing_to_report_on(project: Any) -> None:
    with pytest.raises(ArtifactError, match="no case was published"):
        report_page(project.parameters, Layout(project.root))


def test_the_key_is_in_no_output(published: Any, online: Any) -> None:
    from telescope_pipeline.cli import app

    done = CliRunner().invoke(
        app, ["report", "--wandb", "--params", str(published.parameters_path)]
    )
    assert done.exit_code == 0
    assert "/reports/" in done.output
    assert KEY not in done.output
    assert all(KEY not in json.dumps(view) for view in online.views.values())
