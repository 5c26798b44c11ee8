"""A run as data: its hash, its JSON form, and telling it to a tracker."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from telescope_core.trackers import ArtifactFiles, NullRun, NullTracker, RunDescription
from telescope_pipeline.publish.record import Picture, RunRecord, TableRecord, replay


def _record(folder: Path = Path("/somewhere")) -> RunRecord:
    return RunRecord(
        RunDescription("id", "name", "group", "type", ("tag",), {"a": {"b": 1 / 3}}),
        history=((0, {"x": 1e-300}), (5, {"x": 0.1, "y": 2.0})),
        summary={"best": 0.1, "ok": True, "nothing": None},
        pictures=(Picture("p", folder / "p.png", "hash", "caption"),),
        tables=(TableRecord("t", ("u", "v"), ((1, "x"), (None, "y"))),),
        artifacts=(ArtifactFiles("art", "kind", {"f": folder / "f"}, {"md5": "1"}),),
    )


def test_json_and_back_is_the_same_record() -> None:
    record = _record()
    text = json.dumps(record.to_json())

    assert RunRecord.from_json(json.loads(text)) == record
    assert RunRecord.from_json(json.loads(text)).digest() == record.digest()


def test_the_hash_does_not_depend_on_where_files_are() -> None:
    assert _record(Path("/elsewhere")).digest() == _record().digest()


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {"description": dataclasses.replace(r.description, name="other")},
        lambda r: {"description": dataclasses.replace(r.description, config={"a": {"b": 0.3}})},
        lambda r: {"history": r.history[:1]},
        lambda r: {"history": ((0, {"x": 1.0000000000000002e-300}), r.history[1])},
        lambda r: {"summary": {**r.summary, "ok": False}},
        lambda r: {"pictures": (dataclasses.replace(r.pictures[0], sha256="other"),)},
        lambda r: {"pictures": (dataclasses.replace(r.pictures[0], caption="other"),)},
        lambda r: {"tables": (dataclasses.replace(r.tables[0], rows=()),)},
        lambda r: {"artifacts": (dataclasses.replace(r.artifacts[0], metadata={"md5": "2"}),)},
        lambda r: {"artifacts": (dataclasses.replace(r.artifacts[0], files={}),)},
    ],
)
def test_the_hash_depends_on_everything_else(
    change: Callable[[RunRecord], dict[str, Any]],
) -> None:
    record = _record()

    assert dataclasses.replace(record, **change(record)).digest() != record.digest()


class _Spy(NullTracker, NullRun):
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, description: RunDescription) -> NullRun:
        self.calls.append(("start", description))
        return self

    def __getattribute__(self, name: str) -> Any:
        if name in ("log", "summarize", "image", "table", "artifact", "finish"):
            return lambda *arguments: self.calls.append((name, *arguments))
        return super().__getattribute__(name)


def test_a_tracker_is_told_everything_in_order() -> None:
    record, spy = _record(), _Spy()
    replay(record, spy)
    config = {**record.description.config, "content": record.digest()}

    assert spy.calls == [
        ("start", dataclasses.replace(record.description, config=config)),
        ("log", 0, {"x": 1e-300}),
        ("log", 5, {"x": 0.1, "y": 2.0}),
        ("summarize", record.summary),
        ("image", "p", Path("/somewhere/p.png"), "caption"),
        ("table", "t", ("u", "v"), ((1, "x"), (None, "y"))),
        ("artifact", record.artifacts[0]),
        ("finish",),
    ]
