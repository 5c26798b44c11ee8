"""Publishing to a server: what it holds afterwards, and what happens when it misbehaves."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.loopback import KEY
from telescope_pipeline.publish.conversation import Patience
from telescope_pipeline.publish.publication import publish
from telescope_pipeline.publish.records import case_records
from telescope_pipeline.publish.revision import pipeline_revision
from telescope_pipeline.publish.wandb import deliver
from telescope_pipeline.store.folders import Layout

# What publishing may take at worst on a busy machine; the client starts up to three times.
_MOST_SECONDS = 60.0


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _publish(project: Any, mode: str) -> dict[str, Any]:
    project.configure(mode=mode)
    started = time.monotonic()
    receipt = publish("wide", project.parameters, project.root)
    assert time.monotonic() - started < _MOST_SECONDS
    return receipt


def test_the_server_holds_what_was_published_once(project: Any, online: Any) -> None:
    receipt = _publish(project, "auto")

    assert receipt["synced"] is True
    assert receipt["mode_used"] == "online"
    assert receipt["reason"] is None
    assert receipt["entity"] == "loopback-team"
    assert online.unknown == []
    revision = pipeline_revision(project.root)
    records = case_records("wide", project.parameters, Layout(project.root), revision)
    assert set(online.runs) == {record.description.id for record in records}
    for record, entry in zip(records, receipt["runs"], strict=True):
        run = online.runs[record.description.id]
        assert entry["url"].endswith(f"/loopback-team/testing/runs/{record.description.id}")
        assert run.fields["groupName"] == revision.name
        assert run.fields["jobType"] == record.description.job_type
        assert run.fields["displayName"] == record.description.name
        assert run.config == {**record.description.config, "content": record.digest()}
        numbers = [{k: v for k, v in row.items() if k[0] != "_"} for row in run.history]
        expected = [{**values, "step": step} for step, values in record.history]
        assert [row for row in numbers if "step" in row] == expected
        summary = json.loads(run.summary)
        assert {key: summary[key] for key in record.summary} == record.summary
        for artifact in record.artifacts:
            content = {name: path.read_bytes() for name, path in artifact.files.items()}
            assert online.artifact_files(artifact.name) == content
    metadata = {a.name: a.metadata for a in online.artifacts.values()}
    assert metadata["wide-data"]["dvc"][0]["md5"].endswith(".dir")

    # Every run that trained used the data, and the case used everything.
    logged = {artifact.id: artifact.name for artifact in online.artifacts.values()}
    used = {run: sorted(logged[i] for i in ids) for run, ids in online.used.items()}
    by_name = {record.description.name: record.description.id for record in records}
    assert used == {
        by_name["wide/width-0030"]: ["wide-data"],
        by_name["wide"]: ["wide-data", "wide-runs-width-0002", "wide-runs-width-0030"],
    }

    rows = {name: len(run.history) for name, run in online.runs.items()}
    artifacts = len(online.artifacts)
    assert _publish(project, "online") == {**receipt, "mode_asked": "online"}
    assert {name: len(run.history) for name, run in online.runs.items()} == rows
    assert len(online.artifacts) == artifacts
    assert {run: sorted(logged[i] for i in ids) for run, ids in online.used.items()} == used


def test_runs_published_offline_are_sent_later(project: Any, online: Any) -> None:
    offline = _publish(project, "offline")
    assert online.requests == 0
    later = _publish(project, "online")

    assert later["synced"] is True
    assert [run["id"] for run in later["runs"]] == [run["id"] for run in offline["runs"]]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, "the W&B server refused the key"), (503, "the W&B server did not answer in time")],
)
def test_a_refusing_server_costs_seconds_and_no_results(
    project: Any, online: Any, status: int, reason: str
) -> None:
    online.misbehave = lambda path, operation: status
    receipt = _publish(project, "auto")

    assert receipt["mode_used"] == "offline"
    assert receipt["synced"] is False
    assert receipt["reason"] == reason
    assert {run["url"] for run in receipt["runs"]} == {None}
    assert len(project.run_folders()) == len(receipt["runs"])


def test_a_silent_server_costs_seconds(
    project: Any, silent_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", silent_address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    receipt = _publish(project, "online")

    assert receipt["reason"] == "the W&B server did not answer in time"
    assert receipt["mode_used"] == "offline"


def test_without_a_key_nothing_is_sent(
    project: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    receipt = _publish(project, "auto")

    assert receipt["reason"] == "no W&B key is configured"
    assert receipt["mode_used"] == "offline"
    assert server.requests == 0


def test_the_environment_can_veto(
    project: Any, online: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")

    receipt = _publish(project, "online")

    assert receipt["reason"] == "WANDB_MODE=offline is set in the environment"
    assert online.requests == 0


def _dies_after(count: int) -> Callable[[str, str], int | None]:
    def misbehave(path: str, operation: str) -> int | None:
        nonlocal count
        if path.startswith("/files/") or operation in ("CreateArtifact", "UpsertBucket"):
            count -= 1
        return 503 if count < 0 else None

    return misbehave


def test_a_server_that_dies_is_not_said_to_hold_the_runs(project: Any, online: Any) -> None:
    revision = pipeline_revision(project.root)
    records = case_records("wide", project.parameters, Layout(project.root), revision)
    online.misbehave = _dies_after(2)
    patience = Patience(send=2.0)

    def attempt() -> Any:
        return deliver(
            records,
            project="testing",
            entity=None,
            mode="online",
            root=project.root,
            patience=patience,
        )

    outcome = attempt()
    assert outcome.mode == "offline"
    assert outcome.reason is not None
    assert outcome.reason.endswith("runs reached the W&B server before it stopped answering")
    assert sum(place.url is not None for place in outcome.places.values()) < len(records)

    online.misbehave = lambda path, operation: None
    patience = Patience()
    assert attempt().mode == "online"
    for record in records:
        run = online.runs[record.description.id]
        rows = {row["_step"]: row for row in run.history if "step" in row}
        assert [row["step"] for row in rows.values()] == [step for step, _ in record.history]
