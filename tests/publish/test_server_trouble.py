"""A server in trouble: results stay as they are, receipts tell the truth, ``sync`` finishes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.loopback import HANG_UP
from telescope_pipeline.publish.publication import publish
from telescope_pipeline.publish.records import case_records
from telescope_pipeline.publish.revision import pipeline_revision
from telescope_pipeline.publish.sync import sync
from telescope_pipeline.stages.publish import run as publish_stage
from telescope_pipeline.store.folders import Layout

# What a server that does not answer or refuses may cost; loading the client is not its fault.
_MOST_SECONDS = 10.0


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "receipt.json"
    }


def _assert_whole(project: Any, server: Any) -> None:
    """Every number of every run is at the server, read in the order of its steps."""
    revision = pipeline_revision(project.root)
    for record in case_records("plain", project.parameters, Layout(project.root), revision):
        rows = {row["_step"]: row for row in server.runs[record.description.id].history}
        told = [{k: v for k, v in row.items() if k[0] != "_"} for row in rows.values()]
        expected = [{**values, "step": step} for step, values in record.history]
        assert [row for row in told if "step" in row] == expected


def _publish_then_sync(project: Any, server: Any, mend: Callable[[], None]) -> dict[str, Any]:
    """Publish with the server as it is, and send the rest once it is mended."""
    project.configure(mode="online")
    before = _contents(project.root / "results")
    publish_stage("plain", project.parameters_path)
    receipt = json.loads((project.results("plain") / "receipt.json").read_text())
    assert _contents(project.root / "results") == before
    if receipt["mode_used"] == "online":
        assert receipt["reason"] is None
        assert {run["id"] for run in receipt["runs"]} <= server.runs.keys()
    else:
        assert receipt["synced"] is False
        assert receipt["reason"]
    mend()
    assert {run.state for run in sync(Layout(project.root), ["plain"])} == {"online"}
    _assert_whole(project, server)
    return receipt


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ("/files/", 500),
        ("/files/", HANG_UP),
        ("UpsertBucket", 503),
        ("/storage/", 429),
    ],
)
def test_trouble_for_a_while(project: Any, online: Any, status: int, part: str) -> None:
    left = 2

    def misbehave(path: str, operation: str) -> int | None:
        nonlocal left
        if part in path or part == operation:
            left -= 1
            return status if left >= 0 else None
        return None

    online.misbehave = misbehave
    _publish_then_sync(project, online, lambda: None)
    assert left <= 0  # The trouble was met.


def test_a_server_that_is_killed_between_the_start_of_a_run_and_its_end(
    project: Any, online: Any
) -> None:
    killed = threading.Event()

    def misbehave(path: str, operation: str) -> int | None:
        if path.startswith("/files/") and not killed.is_set():
            killed.set()
            online.die()
            return HANG_UP
        return None

    online.misbehave = misbehave
    receipt = _publish_then_sync(project, online, online.live_again)
    assert killed.is_set()
    assert receipt["mode_used"] == "offline"


def test_a_refusing_server_costs_little_time(project: Any, online: Any) -> None:
    project.configure(mode="offline")
    started = time.monotonic()
    publish("plain", project.parameters, project.root)
    offline = time.monotonic() - started

    project.configure(mode="auto")
    for status in (401, 503, HANG_UP):
        online.misbehave = lambda path, operation, status=status: status
        started = time.monotonic()
        receipt = publish("plain", project.parameters, project.root)
        taken = time.monotonic() - started
        assert receipt["mode_used"] == "offline"
        assert taken < offline + _MOST_SECONDS, status
