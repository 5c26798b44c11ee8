"""Code of the user's that ends the process, fails in odd ways or is interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from telescope_core.errors import LossError, ParametersError
from telescope_pipeline.study.user_calls import attributed, call, load, number

_OWN = """\
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn


class Untold(Exception):
    def __str__(self):
        sys.exit(0)


def fail(how):
    if how == "exit":
        sys.exit(0)
    if how == "untold":
        raise Untold
    if how == "huge":
        raise ValueError("x" * 2_000_000)
    if how == "deep":
        fail(how)
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "secret":
        raise ValueError("refused: " + os.environ["OWN_API_KEY"])
    if how == "sleep":
        Path(f"{os.getpid()}.pid").touch()
        time.sleep(600)


class Network(nn.Linear):
    def __init__(self, how):
        super().__init__(4, 1)
        self.how = how

    def forward(self, inputs):
        fail(self.how)
        return super().forward(inputs)


def build(seed, how="", forward=""):
    fail(how)
    return Network(forward)


def load(seed, how=""):
    fail(how)
    inputs = torch.randn(12, 4)
    targets = inputs.sum(dim=1, keepdim=True)
    return {
        "train_inputs": inputs,
        "train_targets": targets,
        "test_inputs": inputs,
        "test_targets": targets,
    }


def loss(outputs, targets):
    fail(os.environ.get("OWN_HOW"))
    return (outputs - targets).square().mean()


def metric(outputs, targets):
    return fail("exit")
"""
_CASE = """\
  {name}:
    kind: own_model
    seeds: 1
    plot: {{}}
    model: {{call: "{model}", options: {{{options}}}}}
    data: {{call: "own_code:load", options: {{{data}}}}}
    loss: {loss}
    optimizer: {{name: sgd, learning_rate: 0.1}}
    training: {{steps: 4, metrics: {{{metrics}}}}}
    lens: {{stride: 2, probes: 2, deflate: 0, records: 2}}
"""
_HEAD = "run: {seed: 0, workers: 1}\ntracking: {tracker: none}\ncases:\n"
_SECRET = "open-sesame"


def _case(
    name: str = "mine",
    model: str = "own_code:build",
    options: str = "",
    data: str = "",
    loss: str = "half_mse",
    metrics: str = "",
) -> str:
    return _CASE.format(
        name=name, model=model, options=options, data=data, loss=loss, metrics=metrics
    )


class Project:
    """A folder with a parameter file and a module of the user's."""

    def __init__(self, root: Path):
        self.root = root
        (root / "own_code.py").write_text(_OWN)
        (root / "own_exit.py").write_text("import sys\n\nsys.exit(0)\n")

    def write(self, *cases: str) -> None:
        (self.root / "params.yaml").write_text(_HEAD + "".join(cases))

    def start(self, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "telescope_pipeline.cli", *command],
            cwd=self.root,
            env=os.environ | {"OWN_API_KEY": _SECRET} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # What a shell runs in the background ignores interruptions.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *command: str, **environment: str) -> tuple[int, str]:
        process = self.start(command, **environment)
        _, errors = process.communicate(timeout=120)
        return process.returncode, errors

    def pids(self) -> list[int]:
        """Processes that sleep."""
        return [int(path.stem) for path in self.root.glob("*.pid")]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the case, which all its variants share."""
    project = Project(tmp_path_factory.mktemp("prepared"))
    project.write(_case())
    assert project.run("prepare", "mine") == (0, "")
    return project.root / "data"


_SAID = {
    "exit": "SystemExit: 0",
    "untold": "Untold: a text that cannot be made: SystemExit",
    "huge": "ValueError: xxxx",
    "deep": "RecursionError: maximum recursion depth exceeded",
    "interrupt": "KeyboardInterrupt",
    "secret": "ValueError: refused: <OWN_API_KEY>",
}


def test_validate_names_whatever_code_does_in_a_line_each(project: Project) -> None:
    cases = [_case(name=how, options=f"how: {how}") for how in _SAID]
    project.write(*cases, _case(name="imported", model="own_exit:build"))
    code, errors = project.run("validate")
    assert code == 2
    head, *lines = errors.splitlines()
    assert head == "error: params.yaml: 7 problems"
    for line, (how, said) in zip(lines, _SAID.items(), strict=False):
        assert line.startswith(
            f"  cases.{how}.model.call: calling it, own_code:build, raised {said}"
        )
        assert "(own_code.py, line " in line
        assert len(line) < 2000
    assert "cases.imported.model.call: importing its module, own_exit:build, raised" in lines[-1]
    assert "SystemExit: 0 (own_exit.py, line 3)" in lines[-1]
    assert _SECRET not in errors


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_data_that_end_the_process_are_an_error(how: str, project: Project) -> None:
    project.write(_case(data=f"how: {how}"))
    code, errors = project.run("prepare", "mine")
    assert code == 2
    assert f"data.call: calling it, own_code:load, raised {_SAID[how]}" in errors
    assert not (project.root / "data").exists()


@pytest.mark.parametrize(
    ("case", "how", "said"),
    [
        (
            _case(options="forward: exit"),
            "",
            "model.call: running its code, own_code:build, raised SystemExit: 0 (own_code.py",
        ),
        (_case(loss="own_code:loss"), "interrupt", "loss: running its code, own_code:loss, raised"),
        (_case(loss="own_code:loss"), "secret", "loss: own_code:loss (own_code.py, line 27): the"),
        (
            _case(metrics="own: 'own_code:metric'"),
            "",
            "training.metrics.own: calling it, own_code:metric, raised SystemExit: 0",
        ),
    ],
)
def test_code_that_ends_a_worker_is_an_error_of_the_member(
    case: str, how: str, said: str, project: Project, prepared: Path
) -> None:
    project.write(case)
    shutil.copytree(prepared, project.root / "data")
    code, errors = project.run("train", "mine", OWN_HOW=how)
    assert code == 1
    estimate, error = errors.splitlines()
    assert estimate.startswith("train mine: 1 member to train")
    assert error.startswith(f"error: member all_seed-0 failed: {said}")
    assert _SECRET not in errors
    assert not (project.root / "runs").exists()


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "told to terminate")],
)
@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_signal_ends_a_command_with_its_code(
    stage: str, number: signal.Signals, code: int, said: str, project: Project, prepared: Path
) -> None:
    if stage == "train":
        shutil.copytree(prepared, project.root / "data")
        project.write(_case(options="forward: sleep"))
        process = project.start(["train", "mine"])
    else:
        project.write(_case(data="how: sleep"))
        process = project.start(["prepare", "mine"])
    try:
        deadline = time.monotonic() + 60
        while not project.pids() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert project.pids(), "the command did not get there"
        os.killpg(process.pid, number)  # as a terminal and a scheduler do
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code
    # Training begins by saying how long it takes.
    assert errors.splitlines()[stage == "train" :] == [f"{said}: run again to go on"]
    assert not [pid for pid in project.pids() if psutil.pid_exists(pid)]


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_calls.py").write_text(_OWN + _MORE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_calls", raising=False)
    return "own_calls"


_MORE = """

class Rogue:
    def __float__(self):
        sys.exit(0)


def rogue():
    return Rogue()


def __getattr__(name):
    sys.exit(0)
"""


def test_an_interruption_in_the_users_code_is_nobodys_error(own_code: str) -> None:
    # A job in the background is started with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            call("model.call", f"{own_code}:fail", "interrupt")
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_code_does_behind_its_result_is_its_error(own_code: str) -> None:
    with pytest.raises(ParametersError, match="reading the number it returned, own_calls:rogue"):
        number("training.metrics.x", f"{own_code}:rogue")
    with pytest.raises(ParametersError, match=r"importing its module, own_calls:nothing, raised"):
        load("loss", f"{own_code}:nothing")


def test_errors_of_others_go_through_as_they_are(own_code: str) -> None:
    references = {"model.call": f"{own_code}:build", "loss": f"{own_code}:loss"}
    ours = LossError("no scalar")
    for error in (ours, ZeroDivisionError("elsewhere"), SystemExit(3)):
        with pytest.raises(type(error)) as raised, attributed(references):
            raise error
        assert raised.value is error
    fail = load("model.call", f"{own_code}:fail")
    with pytest.raises(ValueError, match="xxx") as caught:
        fail("huge")
    wrapped = LossError("x")
    wrapped.__cause__ = caught.value
    place = r"^model.call: own_calls:build \(own_calls.py, line 21\): x$"
    with pytest.raises(LossError, match=place), attributed(references):
        raise wrapped
