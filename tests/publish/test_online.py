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
from telescope_pipeline.publish.record import RunRecord
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


def _publish(project: Any, mode: str, case: str = "plain") -> dict[str, Any]:
    project.configure(mode=mode)
    started = time.monotonic()
    receipt = publish(case, project.parameters, project.root)
    assert time.monotonic() - started < _MOST_SECONDS
    return receipt


def test_the_server_holds_what_was_published_once(project: Any, online: Any) -> None:
    receipt = _publish(project, "auto", "wide")

    assert receipt["synced"] is True
    assert receipt["mode_used"] == "online"
    assert receipt["reason"] is None
    assert receipt["entity"] == "loopback-team"
    assert online.unknown == []
    records = _records(project, "wide")
    assert set(online.runs) == {record.id for record in records}
    for record, entry in zip(records, receipt["runs"], strict=True):
        run = online.runs[record.id]
        about = record.description
        assert entry["url"].endswith(f"/loopback-team/testing/runs/{record.id}")
        assert run.fields["groupName"] == about.group
        assert run.fields["jobType"] == about.job_type
        assert run.fields["displayName"] == about.name
        assert run.fields["notes"] == about.notes
        assert run.fields["tags"] == list(about.tags)
        assert run.config == {**about.config, **record.provenance, "content": record.digest()}
        assert _rows(run) == [{**values, "step": step} for step, values in record.history]
        summary = json.loads(run.summary)
        assert {key: summary[key] for key in record.summary} == record.summary
        for artifact in record.artifacts:
            content = {name: path.read_bytes() for name, path in artifact.files.items()}
            assert online.artifact_files(artifact.name) == content
    own = online.runs[records[-1].id]
    assert set(own.charts) == {"charts/error", "charts/parameters"}
    for chart in records[-1].charts:
        drawn = own.charts[chart.key]["panel_config"]
        preset = online.presets[drawn["panelDefId"]]
        assert json.loads(preset["spec"]) == chart.spec
        assert drawn["fieldSettings"] == {name: name for name in chart.columns}
        table = json.loads(own.files[json.loads(own.summary)[chart.table]["path"]])
        assert table["columns"] == list(chart.columns)
        assert table["data"] == [list(row) for row in chart.rows]

    # Every member used the data.
    logged = {artifact.id: artifact.name for artifact in online.artifacts.values()}
    used = {run: [logged[i] for i in ids] for run, ids in online.used.items()}
    assert used == {record.id: ["wide-data"] for record in records[:-1]}

    held = _held(online)
    assert _publish(project, "online", "wide") == {**receipt, "mode_asked": "online"}
    assert _held(online) == held


def test_what_is_confirmed_is_not_sent_again(project: Any, online: Any) -> None:
    """At a server that shows no artifacts, then with one part taken away after the other."""
    shown = online.shows
    online.shows = lambda artifact: False
    reason = "of others the server does not show artifacts"
    first = _publish(project, "online")
    assert first["mode_used"] == "offline"
    assert first["reason"].endswith(reason)
    member, own = _records(project, "plain")
    rows = [len(online.runs[record.id].history) for record in (member, own)]
    files = dict(online.runs[own.id].files)
    assert _publish(project, "online")["reason"].endswith(reason)
    assert [len(online.runs[record.id].history) for record in (member, own)] == rows
    assert online.runs[own.id].files.keys() == files.keys()

    online.shows = shown
    artifacts = len(online.artifacts)
    assert _publish(project, "online")["reason"] is None
    assert len(online.artifacts) == artifacts

    history = online.runs[member.id].history
    del history[2:]
    online.runs[own.id].fields["notes"] = "another's"
    picture = next(name for name in files if "plots/error" in name)
    del online.runs[own.id].files[picture]
    assert _publish(project, "online")["reason"] is None
    assert _rows(online.runs[member.id]) == [
        {**values, "step": step} for step, values in member.history
    ]
    assert online.runs[own.id].fields["notes"] == own.description.notes
    assert files[picture] in online.runs[own.id].files.values()
    assert len(online.artifacts) == artifacts

    history[1]["train/mse"] += 1.0
    assert "does not show the same numbers" in _publish(project, "online")["reason"]
    assert len(history) == len(member.history)


def test_a_server_without_charts_of_ones_own_holds_the_rest(project: Any, online: Any) -> None:
    online.misbehave = lambda path, asked: 400 if asked == "CreateCustomChart" else None
    assert _publish(project, "online")["reason"] is None
    _, own = _records(project, "plain")
    assert online.runs[own.id].charts == {}
    assert {"plots/error", "tables/error"} <= json.loads(online.runs[own.id].summary).keys()


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
    records = _records(project, "plain")
    online.misbehave = _dies_after(2)

    def attempt(patience: Patience) -> Any:
        return deliver(
            records,
            project="testing",
            entity=None,
            mode="online",
            root=project.root,
            patience=patience,
        )

    outcome = attempt(Patience(send=2.0))
    assert outcome.mode == "offline"
    assert outcome.reason is not None
    assert outcome.reason.endswith("runs reached the W&B server before it stopped answering")
    assert sum(place.url is not None for place in outcome.places.values()) < len(records)

    online.misbehave = lambda path, operation: None
    assert attempt(Patience()).mode == "online"
    for record in records:
        expected = [{**values, "step": step} for step, values in record.history]
        assert _rows(online.runs[record.id]) == expected


def _records(project: Any, case: str) -> list[RunRecord]:
    revision = pipeline_revision(project.root)
    return case_records(case, project.parameters, Layout(project.root), revision)


def _rows(run: Any) -> list[dict[str, Any]]:
    """Rows of numbers as they are, none left out for being there twice."""
    told = [{k: v for k, v in row.items() if k[0] != "_"} for row in run.history]
    return [row for row in told if "step" in row]


def _held(server: Any) -> tuple[Any, ...]:
    rows = {name: len(run.history) for name, run in server.runs.items()}
    return rows, len(server.artifacts), dict(server.used), set(server.presets)
