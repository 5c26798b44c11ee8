"""Publishing to trackers other than Weights & Biases."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.read_back import READERS
from telescope_core.errors import ArtifactError, ParametersError
from telescope_core.trackers import RunDescription
from telescope_pipeline.publish.conversation import Patience
from telescope_pipeline.publish.delivery import deliver
from telescope_pipeline.publish.publication import publish
from telescope_pipeline.publish.record import RunRecord
from telescope_pipeline.publish.records import case_records
from telescope_pipeline.publish.revision import pipeline_revision
from telescope_pipeline.publish.sync import sync
from telescope_pipeline.stages import publish as stage
from telescope_pipeline.store.folders import Layout

_PLUGIN = """
import json, os, pathlib, time
from telescope_core.errors import TrackerError
from telescope_core.trackers import NullRun, NullTracker

class Failing(NullTracker):
    def start(self, description):
        raise RuntimeError("the key is " + "k" * 40)

class Crashing(NullTracker):
    def start(self, description):
        os.kill(os.getpid(), 9)

class Hanging(NullTracker):
    def start(self, description):
        print("a line that is no answer", flush=True)
        time.sleep(600)

class Noting(NullTracker):
    # Cannot be asked what it holds.
    def __init__(self, path: str):
        self.path = pathlib.Path(path)
    def start(self, description):
        with self.path.open("a") as stream:
            stream.write(description.id + "\\n")
        return NullRun()

class Forgetful(NullTracker):
    def holds(self, run_id, content):
        return False
    def place(self, run_id):
        return None
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with trackers that misbehave, installed here and in the worker."""
    folder = tmp_path / "plugin"
    info = folder / "misbehaving-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "misbehaving.py").write_text(_PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1.0\n")
    names = ("Failing", "Crashing", "Hanging", "Noting", "Forgetful")
    points = "".join(f"{name.lower()} = misbehaving:{name}\n" for name in names)
    points += "absent = package_that_is_not_there:Tracker\n"
    (info / "entry_points.txt").write_text(f"[telescope.trackers]\n{points}")
    _find_first(folder, monkeypatch)
    monkeypatch.syspath_prepend(str(folder))


def _records(project: Any) -> list[RunRecord]:
    root = project.root
    return case_records("wide", project.parameters, Layout(root), pipeline_revision(root))


def _find_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes find what lies in a folder."""
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def _publish(project: Any) -> dict[str, Any]:
    stage.run("wide", project.parameters_path)
    receipt: dict[str, Any] = json.loads((project.results() / "receipt.json").read_text())
    return receipt


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def _results(project: Any) -> dict[str, bytes]:
    folders = [project.root / name / "wide" for name in ("data", "runs", "results")]
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in paths if path.name != "receipt.json"}


@pytest.mark.parametrize("tracker", ["jsonl", "mlflow"])
def test_every_run_is_told_once_and_read_back(
    project: Any, tracker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Offline, which is what the project asks for, it plays no part.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    project.configure(tracker=tracker)
    before = _results(project)
    receipt = _publish(project)

    records = _records(project)
    assert len(records) == 5
    assert [run["id"] for run in receipt["runs"]] == [r.description.id for r in records]
    for record, entry in zip(records, receipt["runs"], strict=True):
        run = READERS[tracker](project.root, "testing", record.description.id)
        assert run.finished
        assert run.name == entry["name"] == record.description.name
        about = record.description
        assert run.config == {**about.config, **record.provenance, "content": record.digest()}
        told = {(k, s): v for s, row in record.history for k, v in row.items()}
        found = {(k, s): v for k, rows in run.history.items() for s, v in rows}
        assert found == told
        assert run.summary == dict(record.summary)
        assert {k: c for k, (c, _) in run.pictures.items()} == {
            p.key: p.path.read_bytes() for p in record.pictures
        }
        assert {k: (tuple(c), tuple(map(tuple, r))) for k, (c, r) in run.tables.items()} == {
            t.key: (t.columns, t.rows) for t in record.tables
        }
        assert run.artifacts == {
            a.name: {name: path.read_bytes() for name, path in a.files.items()}
            for a in record.artifacts
        }
        assert entry["kept"]
        assert entry["url"] is None
        assert (project.root / entry["folder"]).exists()
        assert tracker in entry["folder"]
    assert receipt["mode_used"] == "local"
    assert receipt["synced"] is True
    assert receipt["reason"] is None
    text = json.dumps(receipt)
    assert str(project.root) not in text
    assert socket.gethostname() not in text or len(socket.gethostname()) < 4

    # Again, with and without the last receipt: nothing is told twice.
    kept = _times(project.root / tracker)
    (project.results() / "receipt.json").unlink()
    assert _publish(project) == receipt
    if tracker == "jsonl":
        assert _publish(project) == receipt
        assert _times(project.root / tracker) == kept
    else:
        # The reader insists on one run for each id.
        for record in records:
            READERS[tracker](project.root, "testing", record.description.id)
    assert _results(project) == before


def test_only_what_is_new_or_lost_is_told_again(project: Any) -> None:
    project.configure(tracker="jsonl", options={"directory": "kept"})
    first = _publish(project)
    folders = [project.root / run["folder"] for run in first["runs"]]
    assert all(folder.is_relative_to(project.root / "kept" / "jsonl") for folder in folders)
    shutil.rmtree(folders[0])
    about = json.loads((folders[1] / "run.json").read_text())
    (folders[1] / "run.json").write_text(json.dumps({**about, "state": "running"}))
    (folders[1] / "history.jsonl").write_text("")
    untouched = _times(folders[2])

    assert _publish(project) == first
    assert (folders[0] / "history.jsonl").read_text()
    assert (folders[1] / "history.jsonl").read_text()
    assert _times(folders[2]) == untouched

    claims = project.results() / "claims.json"
    claims.write_text(json.dumps(json.loads(claims.read_text())[:1]))
    second = _publish(project)
    assert [run["id"] for run in second["runs"][:4]] == [run["id"] for run in first["runs"][:4]]
    assert second["runs"][4]["id"] != first["runs"][4]["id"]
    assert _times(folders[2]) == untouched

    # The same runs with other tags take the place of those that were finished.
    project.configure(tags=["third"])
    third = _publish(project)
    assert [run["id"] for run in third["runs"]] == [run["id"] for run in second["runs"]]
    about = json.loads((project.root / third["runs"][0]["folder"] / "run.json").read_text())
    assert about["tags"][0] == "third"


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("tracker", "reason"),
    [
        ("failing", "the tracker failing failed"),
        ("crashing", "the tracker crashing was ended by signal SIGKILL"),
        ("forgetful", "the tracker forgetful does not hold a run that it was told"),
        ("absent", "tracker 'absent' cannot be loaded (No module named 'package_that_is_not_"),
    ],
)
def test_a_tracker_that_fails_costs_a_line_in_the_receipt(
    project: Any, tracker: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    project.configure(tracker=tracker)
    before = _results(project)
    receipt = _publish(project)

    assert receipt["mode_used"] == "failed"
    assert receipt["synced"] is False
    assert receipt["reason"].startswith(reason)
    assert not any(run["kept"] for run in receipt["runs"])
    assert _results(project) == before
    assert "k" * 40 not in caplog.text + json.dumps(receipt)


@pytest.mark.usefixtures("plugin")
def test_a_tracker_that_hangs_is_ended(tmp_path: Path) -> None:
    record = RunRecord(RunDescription("run-1", "n", "g", "t"))
    began = time.monotonic()
    delivery = deliver(
        "hanging", {}, [record], root=tmp_path, patience=Patience(start=20.0, run=2.0)
    )

    assert delivery.reason == "the tracker hanging stopped answering and was ended"
    assert delivery.places == {}
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("plugin")
def test_a_tracker_that_cannot_be_asked_goes_by_the_receipt(project: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    project.configure(tracker="noting", options={"path": str(notes)})
    receipt = _publish(project)
    assert notes.read_text().split() == [run["id"] for run in receipt["runs"]]

    assert _publish(project) == receipt
    assert len(notes.read_text().split()) == 5
    (project.results() / "receipt.json").unlink()
    _publish(project)
    assert len(notes.read_text().split()) == 10


def test_a_client_that_is_not_installed_is_named(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "stub" / "dvclive"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ImportError('not here')\n")
    _find_first(stub.parent, monkeypatch)
    project.configure(tracker="dvclive")

    assert "`pip install telescope-lens[dvclive]`" in _publish(project)["reason"]


def test_a_silent_server_costs_seconds_and_its_password_stays_out(
    project: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hidden-word@127.0.0.1:{port}")
    project.configure(tracker="mlflow", mode="auto")
    began = time.monotonic()
    receipt = _publish(project)

    assert receipt["mode_used"] == "failed"
    assert receipt["reason"] == "the tracker mlflow failed"
    assert "hidden-word" not in caplog.text + json.dumps(receipt)
    assert time.monotonic() - began < 60


def test_there_is_nothing_to_sync(project: Any) -> None:
    project.configure(tracker="jsonl")
    _publish(project)
    with pytest.raises(ArtifactError, match="no runs to send"):
        sync(Layout(project.root), ["wide"])


def test_disabled_is_disabled(project: Any) -> None:
    project.configure(tracker="jsonl", mode="disabled")
    receipt = _publish(project)

    assert receipt["mode_used"] == "disabled"
    assert not (project.root / "jsonl").exists()


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        ({"tracker": "mlfow"}, "no tracker is called 'mlfow'.*did you mean 'mlflow'"),
        ({"tracker": "jsonl", "options": {"colour": "red"}}, "'colour'; it takes project, direc"),
        ({"tracker": "wandb", "options": {"a": 1}}, "tracking.options: .*expected none"),
        ({"tracker": 3}, "tracking.tracker: got 3; expected the name of a tracker"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    project: Any, tracking: dict[str, Any], message: str
) -> None:
    project.configure(**tracking)
    with pytest.raises(ParametersError, match=message):
        stage.run("wide", project.parameters_path)
    assert not (project.results() / "receipt.json").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key", "abc"),
        ("apiKey", "abc"),
        ("token", "abc"),
        ("db-password", "abc"),
        ("client_secrets", "abc"),
        ("uri", "https://me:abc@example.org/mlflow"),
        ("uri", "https://example.org/?write_token=abc"),
        ("where", "0123456789abcdef0123456789abcdefabc"),
    ],
)
def test_keys_and_passwords_are_refused_and_not_shown(project: Any, name: str, value: str) -> None:
    project.configure(tracker="mlflow", options={name: value})
    with pytest.raises(ParametersError) as refused:
        _ = project.parameters
    text = str(refused.value)
    assert f"tracking.options.{name}: got a value that is not shown" in text
    assert "set it in the environment" in text
    assert "abc" not in text.replace(f"tracking.options.{name}", "")


def test_harmless_options_pass(project: Any) -> None:
    options = {"uri": "http://localhost:5000", "directory": "a/b", "monkey": 1, "keep": True}
    project.configure(tracker="mlflow", options=options)
    assert project.parameters.tracking.options == options


def test_publishing_leaves_the_environment_alone(project: Any) -> None:
    before = dict(os.environ)
    project.configure(tracker="jsonl")
    publish("wide", project.parameters, project.root)
    assert dict(os.environ) == before


def test_the_same_results_elsewhere_give_the_same_receipt(
    project: Any, build_project: Callable[[str], Any]
) -> None:
    other = build_project("another place")
    for one in (project, other):
        one.configure(tracker="jsonl")
    assert _publish(project) == _publish(other)
