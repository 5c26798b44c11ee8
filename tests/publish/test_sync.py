"""``telescope sync``: what was kept offline is sent later, once, and nothing is claimed early."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from telescope_core.errors import ArtifactError
from telescope_core.trackers import CONTENT_KEY
from telescope_pipeline.cli import app
from telescope_pipeline.publish import sync as syncing
from telescope_pipeline.publish.records import case_records
from telescope_pipeline.publish.revision import pipeline_revision
from telescope_pipeline.publish.sync import sync
from telescope_pipeline.stages.publish import run as publish_stage
from telescope_pipeline.store.folders import Layout


@pytest.fixture
def offline(project: Any) -> Any:
    """A project one of whose cases was published offline."""
    publish_stage("plain", project.parameters_path)
    return project


def _telescope(project: Any, *arguments: str) -> Result:
    return CliRunner().invoke(
        app, ["sync", *arguments, "--params", str(project.parameters_path)], env={"COLUMNS": "200"}
    )


def _refuse(status: int, *parts: str, after: int = 0) -> Callable[[str, str], int | None]:
    def misbehave(path: str, operation: str) -> int | None:
        nonlocal after
        if any(part in path or part == operation for part in parts):
            after -= 1
            return status if after < 0 else None
        return None

    return misbehave


def _states(project: Any) -> set[str]:
    return {run.state for run in sync(Layout(project.root), ["plain"])}


def test_what_was_kept_offline_is_sent_and_read_back(offline: Any, online: Any) -> None:
    receipt = (offline.results("plain") / "receipt.json").read_bytes()
    done = _telescope(offline)

    assert done.exit_code == 0, done.output
    assert "2 of 2 runs" in done.output
    revision = pipeline_revision(offline.root)
    records = case_records("plain", offline.parameters, Layout(offline.root), revision)
    for record in records:
        run = online.runs[record.description.id]
        assert run.config[CONTENT_KEY] == record.digest()
        numbers = [{k: v for k, v in row.items() if k[0] != "_"} for row in run.history]
        expected = [{**values, "step": step} for step, values in record.history]
        assert [row for row in numbers if "step" in row] == expected
        assert f"/runs/{record.description.id}" in done.output
    assert len(online.used) == 1
    # The pipeline's own files are as they were: a no-op stays one.
    assert (offline.results("plain") / "receipt.json").read_bytes() == receipt

    rows = {name: len(run.history) for name, run in online.runs.items()}
    assert _telescope(offline, "plain").exit_code == 0
    assert {name: len(run.history) for name, run in online.runs.items()} == rows


@pytest.mark.parametrize(
    "misbehave",
    [
        _refuse(503, "/files/"),
        _refuse(500, "CreateArtifact", after=1),
        _refuse(503, "/storage/"),
        _refuse(500, "UseArtifact"),
    ],
    ids=["history refused", "artifacts refused", "files refused", "lineage refused"],
)
def test_nothing_is_called_done_that_is_not(
    offline: Any, online: Any, misbehave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "_PATIENCE", syncing.Patience(send=2.0))
    online.misbehave = misbehave
    done = _telescope(offline)
    assert done.exit_code == 1
    assert "pending" in done.output

    online.misbehave = lambda path, operation: None
    monkeypatch.setattr(syncing, "_PATIENCE", syncing.Patience())
    assert _states(offline) == {"online"}
    for run in online.runs.values():
        steps = [row["step"] for row in run.history if "step" in row]
        assert len(steps) == len(set(steps))


def test_a_refused_key_and_a_missing_one_are_said(
    offline: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    done = _telescope(offline)
    assert done.exit_code == 1
    assert "no W&B key is configured" in done.output
    monkeypatch.setenv("WANDB_API_KEY", "w" * 40)
    done = _telescope(offline)
    assert done.exit_code == 1
    assert "refused the key" in done.output
    assert "w" * 40 not in done.output
    assert server.runs == {}


def test_a_folder_that_is_gone_is_named(offline: Any, online: Any) -> None:
    receipt = json.loads((offline.results("plain") / "receipt.json").read_text())
    (folder,) = offline.root.glob(receipt["runs"][0]["folder"])
    shutil.rmtree(folder)
    done = _telescope(offline)
    assert done.exit_code == 1
    assert "missing" in done.output
    assert "telescope publish" in done.output


def test_runs_of_earlier_results_are_sent_when_asked_for(offline: Any, online: Any) -> None:
    earlier = set(_ids(offline))
    member = offline.root / "runs" / "plain" / "all_seed-0" / "manifest.json"
    member.write_text('{"member": "all_seed-0", "seed": 0, "code": "other"}')
    publish_stage("plain", offline.parameters_path)
    now = set(_ids(offline))
    assert not earlier & now
    assert _telescope(offline).exit_code == 0
    assert set(online.runs) == now
    assert _telescope(offline, "--all").exit_code == 0
    assert set(online.runs) == earlier | now


def test_without_anything_published_there_is_one_message(project: Any) -> None:
    with pytest.raises(ArtifactError, match="no runs to send"):
        sync(Layout(project.root), ["wide", "plain"])


def _ids(project: Any) -> list[str]:
    receipt = json.loads((project.results("plain") / "receipt.json").read_text())
    return [run["id"] for run in receipt["runs"]]
