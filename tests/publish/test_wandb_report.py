"""``telescope report --wandb``: one page a revision, saved and read back by the real client."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from support import loopback, synthetic
from support.loopback import KEY
from telescope_core.errors import ArtifactError, TrackerError
from telescope_pipeline.publish.sync import sync
from telescope_pipeline.report.wandb_page import report_page
from telescope_pipeline.stages.publish import run as publish_stage
from telescope_pipeline.stages.report import run_wandb
from telescope_pipeline.store.folders import Layout

pytest.importorskip("wandb_workspaces", reason="the extra 'reports' is not installed")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A project whose case was published to a server, and the server."""
    project = synthetic.build(tmp_path_factory.mktemp("report") / "project")
    project.configure(mode="online")
    with loopback.Server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_BASE_URL", server.url)
        patch.setenv("WANDB_API_KEY", loopback.KEY)
        publish_stage("plain", project.parameters_path)
        assert {run.state for run in sync(Layout(project.root), ["plain"])} == {"online"}
        yield project, server


@pytest.fixture
def published(everything: tuple[Any, Any]) -> Any:
    return everything[0]


@pytest.fixture
def online(everything: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The server as it was after publishing."""
    server = everything[1]
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", loopback.KEY)
    runs = copy.deepcopy(server.runs)
    yield server
    server.runs = runs
    server.views.clear()
    server.misbehave = lambda path, operation: None


def _receipt(project: Any) -> Path:
    return Path(project.results("plain") / "receipt.json")


def _text(server: Any, number: str) -> str:
    return json.dumps(json.loads(server.views[number]["spec"]), ensure_ascii=False)


def test_a_report_shows_claims_curves_pictures_and_artifacts(published: Any, online: Any) -> None:
    url = run_wandb(published.parameters_path)

    assert online.unknown == []
    ((number, view),) = online.views.items()
    assert number in url
    group = json.loads((published.results("plain") / "receipt.json").read_text())["group"]
    assert view["displayName"] == f"Telescope at revision {group}"
    text = _text(online, number)
    claims = json.loads((published.results("plain") / "claims.json").read_text())
    held = sum(claim["holds"] for claim in claims)
    assert f"{held} of {len(claims)} claims hold" in text
    for claim in claims:
        assert claim["statement"].replace("|", "\\\\|") in text
    for expected in ("train/mse", "test/effective_parameters", "plots/error", "plain-data"):
        assert expected in text
    # The charts are those of the run, drawn from its tables.
    for preset in online.presets:
        assert preset in text
    assert "charts/error_table" in text
    assert "No other results" in text


def test_the_same_revision_keeps_its_page(published: Any, online: Any) -> None:
    first = run_wandb(published.parameters_path)
    assert run_wandb(published.parameters_path) == first
    assert len(online.views) == 1


def test_runs_that_are_not_there_and_runs_that_are_not_whole_are_told_apart(
    published: Any, online: Any
) -> None:
    ids = [run["id"] for run in json.loads(_receipt(published).read_text())["runs"]]
    del online.runs[ids[0]]
    online.runs[ids[1]].files.clear()
    with pytest.raises(TrackerError) as caught:
        run_wandb(published.parameters_path)
    assert "1 of 2 runs of plain were not sent: run `telescope sync` first" in str(caught.value)
    whole = "1 of 2 runs of plain were sent and not read back whole"
    assert f"{whole}, the server does not show pictures and tables: run" in str(caught.value)
    assert online.views == {}


def test_results_that_were_not_published_get_no_page(published: Any, online: Any) -> None:
    metrics = published.results("plain") / "metrics.json"
    before = metrics.read_bytes()
    metrics.write_text("{}")
    with pytest.raises(ArtifactError, match="others than those that were published"):
        run_wandb(published.parameters_path)
    metrics.write_bytes(before)
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
    publish_stage("wide", published.parameters_path)
    published.configure(tracker="wandb")
    run_wandb(published.parameters_path)
    (published.results("wide") / "receipt.json").unlink()

    assert "report: wide is left out, it was published to jsonl" in caplog.text
    assert "plain" not in caplog.text
    ((number, view),) = online.views.items()
    assert view["description"].startswith("1 case studies")
    assert "wide-results" not in _text(online, number)
    assert "plain-results" in _text(online, number)


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
    (project.results("plain") / "receipt.json").write_text(content)
    layout = Layout(project.root)
    named = r"receipt\.json: not a receipt; run `telescope publish plain` again"
    with pytest.raises(ArtifactError, match=named):
        sync(layout, ["plain"])
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


def test_another_revision_is_compared_with_the_one_before(published: Any, online: Any) -> None:
    run_wandb(published.parameters_path)
    before = json.loads((published.results("plain") / "receipt.json").read_text())["group"]
    content = json.loads(published.parameters_path.read_text())
    content["run"]["seed"] = 5
    published.parameters_path.write_text(json.dumps(content))
    claims = json.loads((published.results("plain") / "claims.json").read_text())
    claims[0]["holds"] = not claims[0]["holds"]
    (published.results("plain") / "claims.json").write_text(json.dumps(claims))
    publish_stage("plain", published.parameters_path)
    assert {run.state for run in sync(Layout(published.root), ["plain"])} == {"online"}
    run_wandb(published.parameters_path)

    assert len(online.views) == 2
    text = _text(online, list(online.views)[-1])
    assert f"Results before: of revision `{before}`" in text
    assert f"| plain | {claims[0]['id']} |" in text
    assert f"| plain | {claims[1]['id']} |" not in text
