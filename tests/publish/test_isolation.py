"""Whatever the client does, the stage ends well; secrets and the network are left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.conversation import Patience
from telescope_pipeline.publish.records import case_records
from telescope_pipeline.publish.revision import pipeline_revision
from telescope_pipeline.publish.wandb import deliver
from telescope_pipeline.stages.publish import run as publish_stage
from telescope_pipeline.store.folders import Layout

_MARKER = "marker0123456789marker0123456789marker01"

_PROGRAM = """
import sys
from pathlib import Path
from telescope_pipeline.stages.publish import run
run("wide", Path(sys.argv[1]))
"""


def _receipt(project: Any) -> dict[str, Any]:
    content = json.loads((project.results() / "receipt.json").read_text())
    assert isinstance(content, dict)
    return content


def _command(project: Any) -> list[str]:
    return [sys.executable, "-c", _PROGRAM, str(project.parameters_path)]


def test_the_key_is_written_nowhere(
    project: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", _MARKER)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    project.configure(mode="auto")
    done = subprocess.run(_command(project), capture_output=True, text=True, check=True)

    assert _receipt(project)["mode_used"] == "offline"
    everything = [*project.root.rglob("*"), *Path(os.environ["HOME"]).rglob("*")]
    files = [path for path in everything if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if _MARKER.encode() in path.read_bytes()] == []
    assert _MARKER not in done.stdout + done.stderr
    assert "did not answer" in done.stderr


def test_nothing_of_the_user_changes(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    environment, working_directory = dict(os.environ), Path.cwd()
    publish_stage("wide", project.parameters_path)

    assert dict(os.environ) == environment
    assert Path.cwd() == working_directory
    assert list(Path(os.environ["HOME"]).iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert "wandb" not in sys.modules or not sys.modules["wandb"].run


def test_the_receipt_is_written_and_replaces_the_old_one(project: Any) -> None:
    (project.results() / "receipt.json").write_text("old")
    publish_stage("wide", project.parameters_path)

    assert _receipt(project)["case"] == "wide"
    text = (project.results() / "receipt.json").read_text()
    assert text == json.dumps(_receipt(project), indent=2) + "\n"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_offline_it_opens_no_connection(project: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    watched = ["strace", "-f", "-qq", "-e", calls, "-o", str(trace), *_command(project)]
    try:
        subprocess.run(watched, check=True, capture_output=True, timeout=120)
    except subprocess.CalledProcessError as error:
        if b"ptrace" in error.stderr:
            pytest.skip("this machine does not permit tracing")
        raise

    lines = trace.read_text(errors="replace").splitlines()
    assert any("AF_UNIX" in line for line in lines), "the trace saw nothing of the client"
    addressed = [line for line in lines if re.search(r"sa_family=AF_INET6?\b", line)]
    loopback = re.compile(r'inet_addr\("127\.|inet_pton\(AF_INET6, "::1"')
    assert [line for line in addressed if not loopback.search(line)] == []
    assert _receipt(project)["mode_used"] == "offline"


def test_offline_it_works_without_any_network(project: Any) -> None:
    alone = ["unshare", "--net", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("this machine does not permit a network of one's own")
    subprocess.run([*alone, *_command(project)], check=True, timeout=120)

    assert _receipt(project)["mode_used"] == "offline"
    assert len(project.run_folders()) == 5


def _with_client(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a package called wandb in the way of the real one."""
    package = folder / "packages" / "wandb"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code)
    paths = [str(package.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError", "the tracker 'wandb' needs the package wandb; `pip install telesc"),
        ("import os; os.abort()", "the W&B client was ended by signal SIGABRT"),
        ("import os; os._exit(3)", "the W&B client ended before its work was done"),
        ("raise RuntimeError", "the W&B client failed"),
        (
            "def init(**options): raise OSError('no space left')\ndef Settings(**options): ...",
            "the W&B client failed",
        ),
        (
            "import sys; print('noise'); sys.exit(0)",
            "the W&B client ended before its work was done",
        ),
    ],
)
def test_a_client_that_fails_costs_the_runs_alone(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    _with_client(tmp_path, monkeypatch, code)
    publish_stage("wide", project.parameters_path)
    receipt = _receipt(project)

    assert receipt["mode_used"] == "failed"
    assert receipt["reason"].startswith(reason)
    assert receipt["synced"] is False
    assert [run["url"] for run in receipt["runs"]] == [None] * 5
    assert [run["folder"] for run in receipt["runs"]] == [None] * 5


def test_a_client_that_hangs_is_ended_with_all_it_started(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = tmp_path / "pids"
    code = f"""
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
pathlib.Path({str(note)!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
time.sleep(600)
"""
    _with_client(tmp_path, monkeypatch, code)
    revision = pipeline_revision(project.root)
    records = case_records("wide", project.parameters, Layout(project.root), revision)
    started = time.monotonic()
    outcome = deliver(
        records,
        project="testing",
        entity=None,
        mode="offline",
        root=project.root,
        patience=Patience(start=3.0),
    )

    assert time.monotonic() - started < 10
    assert outcome.mode == "failed"
    assert outcome.reason == "the W&B client stopped answering and was ended"
    for pid in note.read_text().split():
        assert not Path("/proc", pid).exists() or "Z" in Path("/proc", pid, "stat").read_text()


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_client_that_cannot_be_started_costs_the_runs_alone(
    project: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    if mode == "online":
        publish_stage("wide", project.parameters_path)
        project.configure(mode="online")
    real = subprocess.Popen

    def refuse(command: Any, *arguments: Any, **options: Any) -> Any:
        if "git" in command:
            return real(command, *arguments, **options)
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    publish_stage("wide", project.parameters_path)

    assert _receipt(project)["mode_used"] == {"offline": "failed", "online": "offline"}[mode]
    assert _receipt(project)["reason"] == "the W&B client could not be run"


_HUNTER = """
import sys, threading, time

def hunt():
    import psutil
    for _ in range(4000):
        for child in psutil.Process().children(recursive=True):
            if "wandb-core" in child.name():
                time.sleep(DELAY)
                child.kill()
                return
        time.sleep(0.005)

if any("publish.wandb.client" in word for word in sys.orig_argv):
    threading.Thread(target=hunt, daemon=True).start()
"""


@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_a_service_that_is_killed_costs_the_runs_alone(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_HUNTER.replace("DELAY", str(delay)))
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        publish_stage("wide", project.parameters_path)
    # Killed late, it may have been done.
    assert _receipt(project)["mode_used"] == "failed" or delay > 0

    publish_stage("wide", project.parameters_path)
    assert _receipt(project)["mode_used"] == "offline"
    assert len(project.run_folders()) == 5


def test_missing_results_are_an_error_of_the_stage(project: Any) -> None:
    (project.results() / "plots" / "error.csv").unlink()
    with pytest.raises(ArtifactError, match=r"error\.csv: no such file; run the plot stage"):
        publish_stage("wide", project.parameters_path)
    assert not (project.results() / "receipt.json").exists()
    assert project.run_folders() == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("claims.json", '[{"id": 1}]', "expected entries with"),
        ("metrics.json", "[]", "expected a mapping"),
        ("figures.json", '{"a": 1}', "expected entries with"),
        ("history.parquet", "PAR1", "damaged"),
        ("plots/error.csv", "a,b\n1,2,3\n", "not a CSV table"),
    ],
)
def test_damaged_results_are_an_error_of_the_stage(
    project: Any, file: str, content: str, message: str
) -> None:
    (project.results() / file).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        publish_stage("wide", project.parameters_path)
    assert project.run_folders() == []
