"""``telescope init``, and the project it makes under DVC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from support.dvc_status import stages_to_run
from telescope_core.errors import ArtifactError, ConfigurationError, ParametersError
from telescope_pipeline import wiring
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.parameters.user_code import check_user_code, user_paths
from telescope_pipeline.scaffold import create, own_wiring
from telescope_pipeline.store.code import digest

_SCRIPTS = Path(sys.executable).parent
_WRITTEN = [
    ".dvcignore",
    ".gitignore",
    "README.md",
    "dvc.yaml",
    "my_data.py",
    "my_model/__init__.py",
    "my_model/network.py",
    "params.yaml",
    "requirements.txt",
]
_SETTINGS = {
    "cases.mine.seeds": 1,
    "cases.mine.data.options": {"train_size": 60, "test_size": 40},
    "cases.mine.training.steps": 40,
    "cases.mine.lens.probes": 6,
    "cases.mine.lens.records": 4,
    "cases.mine.lens.checkpoint_every": 10,
    "cases.mine.plot.dpi": 60,
    "run.workers": 1,
}
_SetLeaf = Callable[[Path, str, object], None]


@dataclass
class Made:
    """A project that ``telescope init`` made."""

    root: Path
    environment: dict[str, str]

    def run(self, *command: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """Run ``telescope`` or ``dvc`` in the project's folder, as a user would."""
        return subprocess.run(
            [str(_SCRIPTS / command[0]), *command[1:]],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def changed(self) -> set[str]:
        """Name the stages that DVC would run."""
        return stages_to_run(self.root)


def _make(folder: Path, *options: str) -> Made:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "WANDB", "GIT_"))
    }
    environment = kept | {
        "PATH": f"{_SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "GIT_CEILING_DIRECTORIES": str(folder),
    }
    folder.mkdir(exist_ok=True)
    made = Made(folder, environment)
    done = made.run("telescope", "init", "project", *options)
    assert done.returncode == 0, done.stderr
    made.root = folder / "project"
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, set_leaf: _SetLeaf) -> Made:
    """The example at a tiny scale after ``dvc repro``; the last two tests change it."""
    made = _make(tmp_path_factory.mktemp("made"))
    for leaf, value in _SETTINGS.items():
        set_leaf(made.root / "params.yaml", leaf, value)
    done = made.run("dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


@pytest.fixture
def network(finished: Made) -> Iterator[Path]:
    """The example's network, put back afterwards."""
    path = finished.root / "my_model" / "network.py"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def test_the_example_runs_from_end_to_end(finished: Made) -> None:
    results = finished.root / "results" / "mine"
    pictures = {path.name for path in results.glob("plots/*.png")}
    assert pictures == {
        "loss-over-training.png",
        "accuracy-over-training.png",
        "degrees-of-freedom-over-training.png",
        "approximation-error.png",
    }
    claims = json.loads((results / "claims.json").read_text())
    assert [claim["id"] for claim in claims] == [
        "test-approximation-error-last-below-test-linearization-error",
        "test-accuracy-last-above-0-85",
    ]
    report = (finished.root / "results" / "report.html").read_text()
    assert "my_model.network:build" in report
    assert len(list(finished.root.glob("wandb/offline-run-*"))) == 2
    manifest = json.loads((results / "manifest.json").read_text())
    assert manifest["user_code"] == digest({"my_model": finished.root / "my_model"})
    status = subprocess.run(
        ["git", "status", "--short", "--untracked-files=all"],
        cwd=finished.root,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = {line[3:] for line in status.stdout.splitlines()}
    assert seen - {".dvc/.gitignore", ".dvc/config"} == {*_WRITTEN, "dvc.lock"}


def test_a_second_run_does_nothing(finished: Made) -> None:
    again = finished.run("dvc", "repro")
    assert "Running stage" not in again.stdout
    assert "up to date" in again.stdout
    assert finished.changed() == set()


def test_doctor_is_content(finished: Made) -> None:
    doctor = finished.run("telescope", "doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "broken" not in doctor.stdout


@pytest.mark.parametrize(
    ("leaf", "value", "stages"),
    [
        ("cases.mine.plot.dpi", 70, {"plot-mine"}),
        ("cases.mine.loss", "mse", {"prepare-mine", "train-mine"}),
        ("cases.mine.claims", [], {"metrics-mine", "publish-mine"}),
        ("run.workers", 2, set()),
    ],
)
def test_a_changed_leaf_names_the_stages_that_use_it(
    leaf: str, value: object, stages: set[str], finished: Made, set_leaf: _SetLeaf
) -> None:
    path = finished.root / "params.yaml"
    before = path.read_bytes()
    try:
        set_leaf(path, leaf, value)
        assert finished.changed() == {"validate", *stages}
    finally:
        path.write_bytes(before)


def test_an_edited_model_trains_again_and_nothing_is_prepared(
    finished: Made, network: Path
) -> None:
    final = finished.root / "runs/mine/all_seed-0/final.safetensors"
    before = final.read_bytes()
    text = network.read_text()
    assert "nn.ReLU()" in text
    network.write_text(text.replace("nn.ReLU()", "nn.Tanh()"))
    assert finished.changed() == {"validate", "train-mine"}
    done = finished.run("dvc", "repro", "train-mine")
    assert done.returncode == 0, done.stderr
    assert "Running stage 'train-mine'" in done.stdout
    assert "Running stage 'prepare-mine'" not in done.stdout
    assert final.read_bytes() != before


def test_broken_code_stops_a_run_before_anything_is_removed(finished: Made, network: Path) -> None:
    network.write_text(network.read_text().replace("def build", "def biuld"))
    done = finished.run("dvc", "repro")
    assert done.returncode != 0
    assert "cases.mine.model.call: got 'my_model.network:build'" in done.stderr
    assert "did you mean biuld?" in done.stderr
    assert "exited with 2" in done.stderr
    assert "Traceback" not in done.stderr
    assert (finished.root / "runs/mine/all_seed-0/final.safetensors").is_file()


def test_every_file_is_written_and_git_and_dvc_are_there(tmp_path: Path) -> None:
    paths = create(tmp_path / "new")
    root = tmp_path / "new"
    assert sorted(str(path) for path in paths) == _WRITTEN
    assert (root / ".git").is_dir()
    assert (root / ".dvc" / "config").is_file()
    assert own_wiring.disagreements(root) == []
    assert not wiring.rewrite(root)
    inner = create(root / "inner")
    assert len(inner) == len(_WRITTEN)
    assert not (root / "inner" / ".git").exists()


def test_without_scm_there_are_files_alone(tmp_path: Path) -> None:
    create(tmp_path, scm=False)
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == set(_WRITTEN)


@pytest.mark.parametrize("there", [*_WRITTEN, "my_model"])
def test_nothing_is_overwritten(there: str, tmp_path: Path) -> None:
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match=rf"already has {there}.*would be overwritten"):
        create(tmp_path, scm=False)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]
    assert path.read_text() == "mine"


def test_other_files_may_be_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert create(tmp_path, scm=False)
    with pytest.raises(ConfigurationError, match="is a file; expected a folder"):
        create(tmp_path / "notes.txt", scm=False)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example's files; what is imported from there is forgotten afterwards."""
    create(tmp_path, scm=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {"my_model", "my_data", "own", "own_part"}:
            del sys.modules[name]


_OWN_CODE = """\
import torch
from torch import nn

A_NUMBER = 3


def build(seed, hidden=4):
    return nn.Linear(64, 10)


def needs_more(seed, hidden, depth):
    return nn.Linear(64, 10)


def no_seed():
    return nn.Linear(64, 10)


def fails(seed, hidden):
    raise ValueError("no such width")


def returns_text(seed, hidden):
    return "a network"


def empty(seed, hidden):
    return nn.Identity()


def one_argument(outputs):
    return outputs.mean()


def optimizer(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def no_optimizer(model):
    return model
"""


@pytest.mark.parametrize(
    ("leaf", "value", "message"),
    [
        ("model.call", "own:bild", "own has no bild; did you mean build?"),
        ("model.call", "nowhere.at_all:build", "there is no module nowhere"),
        ("model.call", "my_model.netwrok:build", "there is no module my_model.netwrok"),
        ("model.call", "own:A_NUMBER", "of type int; expected a function or a class"),
        ("model.call", "own:needs_more", "missing a required argument: 'depth'"),
        ("model.call", "own:no_seed", "can be called as no_seed(seed, hidden=32): too many"),
        ("model.call", "own:fails", "raised ValueError: no such width (own.py, line 20)"),
        ("model.call", "own:returns_text", "returned str; expected a torch.nn.Module"),
        ("model.call", "own:empty", "optimizer got an empty parameter list"),
        ("model.call", "own_raises:build", "raised ZeroDivisionError: division by zero (own_r"),
        ("model.call", "own_wrong:build", "raised SyntaxError"),
        ("model.call", "own_needs:build", "raised ModuleNotFoundError: No module named 'nothing_"),
        ("model.options", {"hiden": 3}, "got an unexpected keyword argument 'hiden'"),
        ("data.call", "own:A_NUMBER", "data.call: got 'own:A_NUMBER'"),
        ("data.options", {"rows": 3}, "got an unexpected keyword argument 'rows'"),
        ("loss", "own:one_argument", "can be called as one_argument(outputs, targets)"),
        ("optimizer", "own:no_optimizer", "returned Linear; expected a torch.optim.Optimizer"),
        ("optimizer", {"call": "own:optimizer", "options": {"rate": 1}}, "argument 'rate'"),
        ("training.metrics", {"odd": "own:one_argument"}, "training.metrics.odd: got"),
        ("sweep", {"model.call": ["own:build", "own:fails"]}, "sweep.model.call[1]: model.call: "),
        ("sweep", {"model.options.hiden": [3]}, "sweep.model.options.hiden[0]: model.call: got"),
        ("model.call", "json:loads", "rename yours"),
    ],
)
def test_a_bad_reference_is_one_line_of_the_case(
    leaf: str, value: object, message: str, project: Path, set_leaf: _SetLeaf
) -> None:
    (project / "own.py").write_text(_OWN_CODE)
    (project / "own_raises.py").write_text("1 / 0\n")
    (project / "own_wrong.py").write_text("def build(seed:\n")
    (project / "own_needs.py").write_text("import nothing_of_the_kind\n")
    (project / "json.py").write_text("def loads(seed, hidden): ...\n")
    if leaf == "optimizer":
        set_leaf(project / "params.yaml", "cases.mine.model.call", "own:build")
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    path = project / "params.yaml"
    parameters = yaml.load(path)
    *way, last = leaf.split(".")
    section: Any = parameters["cases"]["mine"]
    for key in way:
        section = section[key]
    section[last] = value
    yaml.dump(parameters, path)
    valid = load_parameters(path)
    with pytest.raises(ParametersError) as raised:
        check_user_code(path, valid, ["mine"], ("prepare", "train"))
    head, *lines = str(raised.value).splitlines()
    assert head.startswith(f"{path}: ")
    assert any(message in line for line in lines), lines
    assert all(line.startswith("  cases.mine.") for line in lines)


def _with_model(path: Path, reference: str, **more: Any) -> None:
    """Add a case called ``other`` with another model."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    parameters = yaml.load(path)
    other = parameters["cases"]["mine"] | {"model": reference} | more
    parameters["cases"] = {"mine": parameters["cases"]["mine"], "other": other}
    yaml.dump(parameters, path)


@pytest.mark.parametrize(
    ("files", "reference", "found"),
    [
        (["own.py"], "own:build", ["own.py"]),
        (["own/__init__.py"], "own:build", ["own"]),
        (["own/deep/b.py"], "own.deep.b:build", ["own"]),
        (["own.py", "own/notes.txt"], "own:build", ["own.py"]),
        (["own.py", "own/__init__.py"], "own:build", ["own"]),
        ([], "torch.nn:Linear", []),
    ],
)
def test_code_is_found_by_its_first_name(
    files: list[str], reference: str, found: list[str], project: Path
) -> None:
    for name in files:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    _with_model(project / "params.yaml", reference)
    cases = load_parameters(project / "params.yaml").cases
    assert user_paths(cases["other"], "train", project) == found
    assert user_paths(cases["other"], "prepare", project) == ["my_data.py"]
    assert user_paths(cases["other"], "metrics", project) == []
    assert user_paths(cases["mine"], "train", project) == ["my_model"]


def test_code_that_would_go_unnoticed_is_refused(project: Path) -> None:
    path = project / "params.yaml"
    _with_model(path, "own:build")
    (project / "own.py").write_text("import own_part\n" + _OWN_CODE)
    (project / "own_part.py").write_text("")
    with pytest.raises(ParametersError) as raised:
        check_user_code(path, load_parameters(path), ["other"], ("train",))
    (line,) = str(raised.value).splitlines()[1:]
    assert "cases.other.model.call: got 'own:build'" in line
    assert "own_part.py is imported, whose changes would go unnoticed: add own_part to" in line
    _with_model(path, "own:build", code=["own_part"])
    parameters = load_parameters(path)
    check_user_code(path, parameters, ["other"], ("train",))
    assert user_paths(parameters.cases["other"], "train", project) == ["own.py", "own_part.py"]


def test_each_case_depends_on_its_own_code(project: Path) -> None:
    (project / "own.py").write_text(_OWN_CODE)
    _with_model(project / "params.yaml", "own:build")
    lines = own_wiring.disagreements(project)
    assert "train-other: the stage is missing" in lines
    assert "report: deps: results/other/receipt.json is missing" in lines
    with pytest.raises(ConfigurationError, match="telescope wire"):
        own_wiring.check(project)
    assert wiring.rewrite(project)
    own_wiring.check(project)
    stages = YAML(typ="safe", pure=True).load(project / "dvc.yaml")["stages"]
    assert "own.py" in stages["train-other"]["deps"]
    assert "own.py" not in stages["train-mine"]["deps"]
    assert "my_model" in stages["train-mine"]["deps"]
    assert "my_model" not in stages["prepare-mine"]["deps"]
    # What another model needs is noticed, and a stage that a user wrote is not dropped.
    _with_model(project / "params.yaml", "own_more:build")
    (project / "own_more.py").write_text("")
    assert "train-other: deps: own_more.py is missing" in own_wiring.disagreements(project)
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text + "\n  mail:\n    cmd: mail me\n")
    with pytest.raises(ConfigurationError, match="stages of another origin, mail"):
        wiring.rewrite(project)


@pytest.mark.parametrize("text", ["", "stages: 3\n", "stages: {train: [1\n"])
def test_a_broken_pipeline_file_is_one_error(text: str, project: Path) -> None:
    (project / "dvc.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=r"dvc\.yaml: not a pipeline"):
        own_wiring.disagreements(project)
