"""Logging from a running training: what is logged, and that training neither waits nor fails."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from support.wandb_reader import read_run
from telescope_core.errors import ConfigurationError, TrackerError
from telescope_core.live.alerts import ApproximationFails, PartingWays
from telescope_core.live.background_run import BackgroundRun
from telescope_core.testing import Scenario
from telescope_core.trackers import AlertingRun, NullRun, NullTracker, RunDescription, TrackedRun
from telescope_core.trackers.wandb import WandbRun

DESCRIPTION = RunDescription("id", "name", "group", "train")


class Memory(NullRun):
    """Keeps what it is told, in order."""

    def __init__(self):
        self.rows = []
        self.ends = 0

    def log(self, step, record):
        self.rows.append((step, dict(record)))

    def finish(self):
        self.ends += 1


class Alarm(Memory):
    """One that can call for attention."""

    def __init__(self):
        super().__init__()
        self.alerts = []

    def alert(self, title, text, level):
        self.alerts.append((title, text, level))


class Broken(Memory):
    """Raises from the third row on."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def log(self, step, record):
        super().log(step, record)
        if len(self.rows) > 2:
            raise self.error


class Gated(Memory):
    """Takes nothing before the gate is open."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()

    def log(self, step, record):
        assert self.gate.wait(30)
        super().log(step, record)


def trained(lens_of, target, *, steps=12, every=4, loss="cross-entropy", **options):
    training = Scenario("mlp-outputs", "adamw", loss, steps=steps).start()
    lens = lens_of(training, probes=6, stride=4)
    log = lens.log_to(target, every=every, **options)
    training.run(lens)
    return training, lens, log


@pytest.mark.parametrize(("every", "steps"), [(4, [4, 8, 12]), (3, [3, 6, 9, 12]), (5, [5, 10])])
def test_records_are_the_snapshots_of_their_steps(every, steps, lens_of):
    run = Memory()
    _, _, log = trained(lens_of, run, every=every)
    assert log.close()

    training = Scenario("mlp-outputs", "adamw", "cross-entropy", steps=12).start()
    lens = lens_of(training, probes=6, stride=4)
    expected = []
    for step in steps:
        training.run(lens, steps=step - training.done)
        expected.append((step, lens.snapshot().to_record()))
    assert run.rows == expected
    assert run.ends == 0  # A run that was given started belongs to whoever started it.
    assert log.record == (expected[-1][1])


@pytest.mark.parametrize(("probes", "blocks"), [(6, 10), (None, 50)])
def test_records_are_blocks_apart_if_nobody_says(probes, blocks, lens_of):
    stride = 2
    training = Scenario(steps=120).start()
    lens = lens_of(training, probes=probes, stride=stride)
    run = Memory()
    with lens.log_to(run):
        training.run(lens)
    apart = stride * blocks
    assert [step for step, _ in run.rows] == list(range(apart, 120 + 1, apart))


def test_training_is_the_same_to_the_bit(lens_of):
    logged, _, log = trained(lens_of, Alarm(), every=1, alerts=[ApproximationFails(bound=1e-9)])
    log.close()
    plain = Scenario("mlp-outputs", "adamw", "cross-entropy", steps=12).start()
    plain.run()
    pairs = zip(logged.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_that_is_started_here_is_completed(lens_of):
    class Tracker(NullTracker):
        def start(self, description):
            self.started = (description, Memory())
            return self.started[1]

    tracker = Tracker()
    _, _, log = trained(lens_of, tracker, description=DESCRIPTION)
    with log:
        pass
    description, run = tracker.started
    assert description is DESCRIPTION
    assert [step for step, _ in run.rows] == [4, 8, 12]
    assert run.ends == 1
    assert log.close()  # Twice does no harm.
    assert run.ends == 1


def test_nothing_is_logged_once_closed(lens_of):
    training = Scenario(steps=12).start()
    lens = lens_of(training, stride=4)
    run = Memory()
    with lens.log_to(run, every=4):
        training.run(lens, steps=4)
    training.run(lens)
    assert [step for step, _ in run.rows] == [4]


def test_two_logs_side_by_side(lens_of):
    training = Scenario(steps=12).start()
    lens = lens_of(training, stride=4)
    often, seldom = Memory(), Memory()
    with lens.log_to(often, every=2), lens.log_to(seldom, every=4):
        training.run(lens)
    assert [step for step, _ in often.rows] == [2, 4, 6, 8, 10, 12]
    assert seldom.rows == [row for row in often.rows if row[0] % 4 == 0]


@pytest.mark.parametrize("error", [TrackerError("no"), RuntimeError("no"), SystemExit(3)], ids=repr)
def test_a_tracker_that_raises_is_given_up_with_one_warning(error, lens_of, caplog):
    run = Broken(error)
    with caplog.at_level(logging.INFO, logger="telescope_core.live"):
        training, lens, log = trained(lens_of, run, every=1)
        assert not log.close()
    assert lens.steps == training.done == 12
    assert len(run.rows) == 3
    assert log.failed
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert type(error).__name__ in record.getMessage()


def test_a_tracker_that_cannot_start_is_given_up_with_one_warning(lens_of, caplog):
    class Tracker(NullTracker):
        def start(self, description):
            raise TrackerError("key 0123456789abcdef0123456789abcdef01234567 was refused")

    training, _, log = trained(lens_of, Tracker(), description=DESCRIPTION)
    log.close()
    assert training.done == 12
    (record,) = caplog.records
    assert "nothing more is logged" in record.getMessage()
    assert "0123456789abcdef" not in record.getMessage()


def test_training_does_not_wait_for_a_slow_tracker(lens_of):
    run = Gated()
    training, _, log = trained(lens_of, run, every=1)
    assert training.done == 12
    assert run.rows == []
    run.gate.set()
    assert log.close()
    assert [step for step, _ in run.rows] == list(range(1, 13))


def test_what_a_slow_tracker_has_no_time_for_is_left_out(caplog):
    run = Gated()
    background = BackgroundRun(run, finishes=True, capacity=3)
    for step in range(10):
        background.log(step, {})
    # One row may already be on its way to the tracker.
    assert 6 <= background.left_out <= 7
    (record,) = caplog.records
    assert "slower than training" in record.getMessage()

    started = time.monotonic()
    assert not background.close(timeout=0.2)
    assert time.monotonic() - started < 5
    assert run.ends == 0
    run.gate.set()


def test_what_waits_is_handed_over_at_exit():
    script = """
import time
from telescope_core.live.background_run import BackgroundRun
from telescope_core.trackers import NullRun

class Slow(NullRun):
    def log(self, step, record):
        time.sleep(0.05)
        print(step, flush=True)

    def finish(self):
        print("finished", flush=True)

background = BackgroundRun(Slow(), finishes=True)
for step in range(8):
    background.log(step, {})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*map(str, range(8)), "finished"]
    assert done.stderr == ""


def test_alerts_go_to_the_tracker_that_can(lens_of, caplog):
    run = Alarm()
    rules = [ApproximationFails(bound=1e-9), PartingWays(factor=1.0001, deviations=0.0, records=2)]
    with caplog.at_level(logging.INFO):
        _, _, log = trained(lens_of, run, every=1, loss="mse", alerts=rules)
        log.close()
    assert isinstance(run, AlertingRun)
    titles = [title for title, _, _ in run.alerts]
    assert "Telescoping model fails on test" in titles
    assert any(title.startswith("Effective parameters part") for title in titles)
    assert len(titles) == len(set(titles)) == 2
    assert caplog.records == []


@pytest.mark.parametrize("run", [Memory(), Broken(TrackerError("no"))], ids=["cannot", "broken"])
def test_alerts_go_to_logging_otherwise(run, lens_of, caplog):
    _, _, log = trained(lens_of, run, every=1, alerts=[ApproximationFails(bound=1e-9)])
    log.close()
    messages = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith("Telescoping model fails on test") for message in messages) == 1


def test_an_alert_that_the_tracker_refuses_goes_to_logging(caplog):
    class Refusing(Alarm):
        def alert(self, title, text, level):
            raise TrackerError("quota")

    background = BackgroundRun(Refusing(), finishes=False)
    background.alert("title", "text", "ERROR")
    assert not background.close()
    alert, warning = caplog.records
    assert (alert.levelname, alert.getMessage()) == ("ERROR", "title: text")
    assert "quota" in warning.getMessage()


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (Memory(), {"every": 0}, "every must be an integer of at least 1"),
        (Memory(), {"every": True}, "every"),
        (NullTracker(), {}, "without a run"),
        (Memory(), {"description": DESCRIPTION}, "which is no tracker"),
        (object(), {}, "was given a object"),
        (Memory(), {"alerts": [ApproximationFails("validation")]}, "'validation'; the lens has"),
    ],
)
def test_what_does_not_fit_is_refused(target, options, message, lens_of):
    lens = lens_of(Scenario().start())
    with pytest.raises(ConfigurationError, match=message):
        lens.log_to(target, **options)


def test_parting_needs_probes(lens_of):
    lens = lens_of(Scenario().start(), probes=None)
    with pytest.raises(ConfigurationError, match="probes=None"):
        lens.log_to(Memory(), alerts=[PartingWays()])


def test_the_runs_of_trackers_are_recognised():
    assert isinstance(NullRun(), TrackedRun)
    assert not isinstance(NullRun(), AlertingRun)
    assert issubclass(WandbRun, AlertingRun)


def test_the_lens_alone_needs_no_tracker():
    code = "import sys, telescope_core.lens; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "telescope_core.lens.lens" in loaded
    assert not [name for name in loaded if name.startswith("telescope_core.trackers")]
    assert not loaded & {"wandb", "matplotlib", "pandas", "pyarrow", "pydantic", "rich", "dvc"}


_WANDB = """
import torch, wandb
from telescope_core import TelescopeLens
from telescope_core.live.alerts import ApproximationFails

run = wandb.init(mode="offline", project="mine", id="own", settings=wandb.Settings(silent=True))
torch.manual_seed(0)
x, y = torch.randn(20, 3), torch.randn(20, 1)
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss = torch.nn.MSELoss()
lens = TelescopeLens(model, optimizer, loss, x, y, probes=4, stride=5)
lens.log_to(run, every=5, alerts=[ApproximationFails("train", bound=1e-12)])
for step in range(20):
    index = torch.randperm(20)[:5]
    with lens.step(index):
        optimizer.zero_grad()
        value = loss(model(x[index]), y[index])
        value.backward()
        optimizer.step()
    run.log({"loss": value.item()})
"""


def test_records_join_the_users_own_run_of_wandb(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", _WANDB],
        cwd=tmp_path,
        env=kept | {"HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (folder,) = (tmp_path / "wandb").glob("offline-run-*-own")
    run = read_run(folder)
    ours = [row for row in run.history if "telescope/step" in row]
    assert [row["telescope/step"] for row in ours] == [5, 10, 15, 20]
    assert all(row["telescope/train/effective_parameters"] > 0 for row in ours)
    assert sum("loss" in row for row in run.history) == 20
    assert run.metrics == {"telescope/step": "", "telescope/*": "telescope/step"}
    assert run.alerts == ["Telescoping model fails on train"]
