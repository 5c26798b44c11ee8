"""What every tracker does, told through the protocol and read back by the library itself."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from telescope_core.errors import TrackerError
from telescope_core.trackers import ArtifactFiles, RunDescription, RunStore
from telescope_pipeline.publish.record import Picture, RunRecord, TableRecord, replay

_CONFIG: dict[str, Any] = {
    "case": "a case",
    "sweep": {"width": 30, "rate": 1e-300},
    "seeds": [0, 1],
    "training": {"optimizer": {"name": "sgd", "betas": [0.9, 1 / 3]}, "nesterov": False},
    "nothing": None,
}
# Steps have gaps and keys come and go; one key is the beginning of another.
_HISTORY: list[tuple[int, dict[str, float]]] = [
    (0, {"train/mse": 1 / 3, "test/p": 1e9 / 7}),
    (1, {"train/mse": math.nan, "test/p": 1e-300, "test/p/0.weight": 0.1}),
    (10, {"train/mse": math.inf, "step": 10}),
    (250, {"train/mse": -1.7e308, "test/p": -math.inf, "test/p/0.weight": 2.0}),
]
_SUMMARY = {"best": 1 / 7, "claims/peak": True, "word": "a|b", "lost": None, "worst": math.nan}
_COLUMNS = ("width", "label", "mse", "ok")
_ROWS = ((2, "a", 1 / 3, True), (30, 'b | "c"', None, False))


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    picture = tmp_path / "drawn.png"
    drawn = Image.new("RGB", (5, 3), (255, 0, 0))
    drawn.putpixel((2, 1), (1, 2, 3))
    drawn.save(picture)
    files = {"a.bin": tmp_path / "a.bin", "deep/b.txt": tmp_path / "other.txt"}
    files["a.bin"].write_bytes(bytes(range(256)))
    files["deep/b.txt"].write_text("b")
    return RunRecord(
        RunDescription("run-1", "wide/width-0030", "group", "members", ("x", "y"), _CONFIG),
        history=tuple(_HISTORY),
        summary=_SUMMARY,
        pictures=(Picture("plots/error", picture, "", "What it shows."),),
        tables=(TableRecord("tables/error", _COLUMNS, _ROWS),),
        artifacts=(ArtifactFiles("wide-data", "kind", files, {"md5": "1"}),),
    )


def _named(record: RunRecord, run_id: str, **config: Any) -> RunRecord:
    about = record.description
    return replace(record, description=replace(about, id=run_id, config={**_CONFIG, **config}))


def _columns(rows: list[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    columns: dict[str, list[tuple[int, float]]] = {}
    for step, row in rows:
        for name, value in row.items():
            if name != "step":
                columns.setdefault(name, []).append((step, value))
    return columns


def _check_history(kit: Any, found: Any, rows: list[tuple[int, dict[str, float]]]) -> None:
    told = _columns(rows)
    assert set(found) == set(told)
    for name, column in told.items():
        assert [step for step, _ in found[name]] == [step for step, _ in column], name
        for (_, read), (_, value) in zip(found[name], column, strict=True):
            assert kit.same(read, kit.kept(value)), (name, read, value)


def test_everything_is_read_back(kit: Any, record: RunRecord) -> None:
    (picture,) = record.pictures
    drawn = picture.path.read_bytes()
    (artifact,) = record.artifacts
    files = {name: path.read_bytes() for name, path in artifact.files.items()}
    before = dict(os.environ)
    with kit.open() as tracker:
        replay(record, tracker)
        # What was kept does not change with the originals.
        for path in (picture.path, *artifact.files.values()):
            path.write_bytes(b"changed")
    left = {name for name in os.environ if os.environ[name] != before.get(name)}
    # The first is the client's own doing, the second is how trackio is told its folder.
    assert left <= {"WANDB_SERVICE", "TRACKIO_DIR"}

    run = kit.read("run-1")
    assert run.finished
    assert run.name.replace("/", "-") == "wide-width-0030"
    assert run.config == {**_CONFIG, "content": record.digest()}
    _check_history(kit, run.history, _HISTORY)
    assert set(run.summary) == set(_SUMMARY)
    told: dict[str, Any] = {**_SUMMARY}
    if kit.name == "wandb":
        # Its client has no NaN in a summary.
        told["worst"] = None
    wrong = {n: run.summary[n] for n, v in told.items() if not kit.same(run.summary[n], v)}
    assert wrong == {}
    ((content, caption),) = (run.pictures[key] for key in ["plots/error"])
    assert len(run.pictures) == 1
    assert kit.same_picture(content, drawn)
    assert caption == "What it shows."
    assert set(run.tables) == {"tables/error"}
    columns, rows = run.tables["tables/error"]
    assert tuple(columns) == _COLUMNS
    assert tuple(map(tuple, rows)) == _ROWS
    assert run.artifacts == {"wide-data": files}


def test_runs_one_after_another_are_kept_apart(kit: Any, record: RunRecord) -> None:
    with kit.open() as tracker:
        replay(_named(record, "run-a", which="a"), tracker)
        replay(replace(_named(record, "run-b", which="b"), history=((3, {"x": 0.5}),)), tracker)

    first, second = kit.read("run-a"), kit.read("run-b")
    assert (first.config["which"], second.config["which"]) == ("a", "b")
    _check_history(kit, first.history, _HISTORY)
    _check_history(kit, second.history, [(3, {"x": 0.5})])
    assert first.finished
    assert second.finished


def test_two_runs_open_at_once(kit: Any) -> None:
    one, two = (RunDescription(f"run-{i}", "n", "g", "t", config={"i": i}) for i in (1, 2))
    with kit.open() as tracker:
        first = tracker.start(one)
        first.log(0, {"x": 1.0})
        first.summarize({"done": 1})
        if kit.name == "trackio":
            with pytest.raises(TrackerError, match="one at a time"):
                tracker.start(two)
        else:
            second = tracker.start(two)
            second.log(0, {"x": 10.0})
        first.log(5, {"x": 2.0})
        if kit.name != "trackio":
            second.log(7, {"x": 20.0})
            second.summarize({"done": 2})
            second.finish()
        first.finish()

    _check_history(kit, kit.read("run-1").history, [(0, {"x": 1.0}), (5, {"x": 2.0})])
    if kit.name != "trackio":
        _check_history(kit, kit.read("run-2").history, [(0, {"x": 10.0}), (7, {"x": 20.0})])


def test_ending_twice_does_no_harm(kit: Any) -> None:
    tracker = kit.open()
    run = tracker.start(RunDescription("run-1", "n", "g", "t", config={"a": 1}))
    run.log(0, {"x": 1.0})
    run.summarize({"done": True})
    run.finish()
    run.finish()
    tracker.close()
    tracker.close()

    _check_history(kit, kit.read("run-1").history, [(0, {"x": 1.0})])
    if kit.name != "shelf":
        with pytest.raises(TrackerError):
            run.log(1, {"x": 1.0})


def test_closing_finishes_what_is_open(kit: Any) -> None:
    if kit.name == "shelf":
        pytest.skip("the example does not go that far")
    with kit.open() as tracker:
        run = tracker.start(RunDescription("run-1", "n", "g", "t", config={"a": 1}))
        run.log(2, {"x": 1.0})
        run.summarize({"done": True})

    assert kit.read("run-1").finished


def test_what_goes_wrong_is_a_tracker_error(kit: Any, tmp_path: Path) -> None:
    if kit.name == "shelf":
        pytest.skip("the example does not go that far")
    absent = tmp_path / "absent.png"
    with kit.open() as tracker:
        run = tracker.start(RunDescription("run-1", "n", "g", "t", config={"a": 1}))
        with pytest.raises(TrackerError, match="picture p"):
            run.image("p", absent)
        with pytest.raises(TrackerError, match="artifact a"):
            run.artifact(ArtifactFiles("a", "kind", {"f": absent}))
        run.log(0, {"x": 1.0})
        run.summarize({"done": True})
        run.finish()

    _check_history(kit, kit.read("run-1").history, [(0, {"x": 1.0})])


def _break_off(kit: Any, about: RunDescription) -> None:
    with kit.open() as tracker:
        run = tracker.start(about)
        run.log(0, {"x": 1.0})
        raise ZeroDivisionError


def test_only_a_finished_run_with_this_content_is_held(kit: Any, record: RunRecord) -> None:
    if not kit.looks_up:
        pytest.skip("this one cannot be asked")
    content = record.digest()
    with kit.open() as tracker:
        assert isinstance(tracker, RunStore)
        assert not tracker.holds("run-1", content)
        assert tracker.place("run-1") is None
    about = replace(record.description, config={**_CONFIG, "content": content})
    with pytest.raises(ZeroDivisionError):
        _break_off(kit, about)
    with kit.open() as tracker:
        assert not tracker.holds("run-1", content)
        # In place of what was left unfinished.
        replay(record, tracker)
        assert tracker.holds("run-1", content)
        assert not tracker.holds("run-1", "other")
        assert not tracker.holds("run-2", content)
        assert str(tracker.place("run-1")).startswith(str(kit.root))
    with kit.open() as tracker:
        assert tracker.holds("run-1", content)
        with pytest.raises(TrackerError, match="run-1"):
            tracker.start(record.description)
    _check_history(kit, kit.read("run-1").history, _HISTORY)
