"""Bad parameter files: one message per problem, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from telescope_core.errors import ParametersError
from telescope_pipeline.parameters.reading import case_of, load_parameters

GROKKING = "cases.grokking_polynomial"
DESCENT = "cases.double_descent"
QUALITY = "cases.approximation_quality"


@pytest.fixture
def copy(tmp_path: Path, repository: Path) -> Path:
    """A copy of the project's own parameters."""
    path = tmp_path / "params.yaml"
    path.write_bytes((repository / "params.yaml").read_bytes())
    return path


def _change(path: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    yaml = YAML(typ="safe", pure=True)
    parameters = yaml.load(path)
    change(parameters)
    yaml.dump(parameters, path)


def _rename(path: Path, dotted: str, new: str) -> None:
    def change(parameters: dict) -> None:  # type: ignore[type-arg]
        *keys, last = dotted.split(".")
        for key in keys:
            parameters = parameters[int(key) if key.isdigit() else key]
        parameters[new] = parameters.pop(last)

    _change(path, change)


def _put(path: Path, dotted: str, value: object) -> None:
    def change(parameters: dict) -> None:  # type: ignore[type-arg]
        *keys, last = dotted.split(".")
        for key in keys:
            parameters = parameters[int(key) if key.isdigit() else key]
        parameters[int(last) if last.isdigit() else last] = value

    _change(path, change)


def _problems(path: Path) -> list[str]:
    with pytest.raises(ParametersError) as raised:
        load_parameters(path)
    head, *lines = str(raised.value).splitlines()
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert head == f"{path}: {count}"
    return [line.strip() for line in lines]


def test_the_projects_own_parameters_are_valid(repository: Path) -> None:
    parameters = load_parameters(repository / "params.yaml")
    assert set(parameters.cases) == {
        "grokking_polynomial",
        "double_descent",
        "approximation_quality",
        "boosting_vs_networks",
        "grokking_network",
        "weight_averaging",
        "design_choices",
        "depth",
        "convolutional_network",
        "modular_addition",
        "large_scale",
    }
    assert all(type(case).model_fields["kind"] for case in parameters.cases.values())


@pytest.mark.parametrize(
    ("leaf", "value", "expected"),
    [
        (f"{GROKKING}.lens.stride", -3, "got -3; expected a number of at least 1"),
        (f"{GROKKING}.lens.stride", "3", "got '3'; expected an integer"),
        (f"{GROKKING}.lens.stride", 2.5, "got 2.5; expected an integer"),
        (f"{GROKKING}.lens.stride", True, "got true; expected an integer"),
        (f"{GROKKING}.lens.stride", None, "got null; expected an integer"),
        (f"{GROKKING}.lens.order", 3, "got 3; expected 1 or 2"),
        (f"{GROKKING}.lens.probes", 0, "got 0; expected 'exact' or an integer of at least 1"),
        (f"{GROKKING}.lens.probes", "exct", "got 'exct'; expected 'exact' or an integer"),
        (f"{GROKKING}.training.learning_rate", 0, "got 0; expected a number above 0"),
        (f"{GROKKING}.training.learning_rate", "fast", "got 'fast'; expected a number"),
        (f"{GROKKING}.training.learning_rate", float("nan"), "got nan; expected a finite number"),
        (f"{GROKKING}.data", 3, "got 3; expected a mapping"),
        (f"{GROKKING}.seeds", 0, "got 0; expected a number of at least 1"),
        (f"{DESCENT}.model.widths", [], "got []; expected at least one entry"),
        (f"{DESCENT}.model.widths", 5, "got 5; expected a list"),
        (f"{DESCENT}.model.widths", [5, 5], "got [5, 5]; expected entries that differ"),
        (f"{DESCENT}.data.label_noise", 1.5, "got 1.5; expected a number of at most 1"),
        (f"{DESCENT}.data.label_noise", -0.1, "got -0.1; expected a number of at least 0"),
        (f"{DESCENT}.data.classes", [0], "got [0]; expected at least 2 entries"),
        (f"{DESCENT}.lens.deflate", 1000, "got 1000; expected at most lens.probes (30)"),
        (f"{DESCENT}.training.optimizer.name", "sgf", "expected one of sgd, adam, adamw; did"),
        (f"{DESCENT}.training.optimizer.momentum", 1.0, "got 1.0; expected a number below 1"),
        (f"{DESCENT}.kind", "double_decent", "did you mean double_descent?"),
        (f"{QUALITY}.data.test_size", 900, "got 900; expected at most 1797 rows"),
        (f"{QUALITY}.training.batch_size", 5000, "expected at most data.train_size (1000)"),
        (f"{QUALITY}.plot.dpi", 5000, "got 5000; expected a number of at most 600"),
        ("run.workers", 0, "got 0; expected 'auto' or an integer of at least 1"),
        ("run.device", "gpu", "got 'gpu'; expected cpu, mps, cuda or cuda:<index>"),
        ("run.executor", "dask", "got 'dask'; expected local, or a Dask scheduler's address"),
        ("tracking.mode", "ofline", "expected 'auto', 'online', 'offline' or 'disabled'"),
        ("tracking.entity", 3, "got 3; expected at most 128 letters"),
        ("tracking.tags", ["ok", ""], "expected at least 1 characters"),
        ("cases", {}, "got {}; expected at least one entry"),
        ("run", None, "got null; expected a mapping"),
    ],
)
def test_a_bad_value_is_one_line_with_path_value_and_expectation(
    leaf: str, value: object, expected: str, copy: Path
) -> None:
    _put(copy, leaf, value)
    (line,) = _problems(copy)
    assert line.startswith(leaf)
    assert expected in line


@pytest.mark.parametrize(
    ("leaf", "new", "match"),
    [
        (f"{GROKKING}.lens.stride", "strid", "stride"),
        (f"{DESCENT}.model", "modle", "model"),
        (f"{QUALITY}.training.settings.1.optimizer.betas", "beta", "betas"),
        (f"{DESCENT}.claims.standard_errors", "standart_errors", "standard_errors"),
        ("run.threads", "thread", "threads"),
        ("tracking", "tracker", "tracking"),
    ],
)
def test_a_misspelt_key_is_one_line_with_the_close_match(
    leaf: str, new: str, match: str, copy: Path
) -> None:
    _rename(copy, leaf, new)
    (line,) = _problems(copy)
    path = ".".join([*leaf.split(".")[:-1], new]).replace(".1.", "[1].")
    assert line.startswith(f"{path}: unknown key")
    assert line.endswith(f"did you mean {match}?")


def test_a_misspelt_kind_key_is_recognised(copy: Path) -> None:
    _rename(copy, f"{DESCENT}.kind", "kin")
    (line,) = _problems(copy)
    assert line.startswith(f"{DESCENT}.kind: missing; expected one of approximation_quality, ")
    assert line.endswith("is kin a misspelt kind?")


def test_an_option_of_another_optimizer_is_unknown(copy: Path) -> None:
    _put(copy, f"{QUALITY}.training.settings.0.optimizer.betas", [0.9, 0.99])
    (line,) = _problems(copy)
    assert line.startswith(f"{QUALITY}.training.settings[0].optimizer.betas: unknown key")
    assert "momentum" in line


def test_a_missing_section_says_what_belongs_there(copy: Path) -> None:
    _change(copy, lambda parameters: parameters["cases"]["double_descent"].pop("plot"))
    assert _problems(copy) == [f"{DESCENT}.plot: missing; expected a mapping with dpi"]


def test_every_problem_is_reported_at_once(copy: Path) -> None:
    _put(copy, f"{DESCENT}.model.widths", [0, 2.5, 7])
    _put(copy, "run.threads", 0)
    assert [line.split(":")[0] for line in _problems(copy)] == [
        "run.threads",
        f"{DESCENT}.model.widths[0]",
        f"{DESCENT}.model.widths[1]",
    ]


_OWN = """\
run: {seed: 0}
tracking: {tracker: none}
cases:
  mine:
    kind: own_model
    seeds: 1
    model: {call: "own:build", options: {hidden: 3}}
    data: "own:load"
    loss: mse
    optimizer: {name: sgd, learning_rate: 0.1}
    training: {steps: 20}
    lens: {stride: 2}
    plot: {}
    sweep: SWEEP
"""


@pytest.mark.parametrize(
    ("sweep", "line"),
    [
        (
            "{training.stpes: [5]}",
            "training.stpes: got [5]; expected leaves of the case; there is no training.stpes; did "
            "you mean training.steps?",
        ),
        (
            "{lens.stride: [1, 2], optimizer.learning_rat: [0.1]}",
            "optimizer.learning_rat: got [0.1]; expected leaves of the case; there is no "
            "optimizer.learning_rat; did you mean optimizer.learning_rate?",
        ),
        (
            "{lens.stride: [1], optimizer.learning_rate: [0.1, -1.0]}",
            "optimizer.learning_rate[1]: got -1.0; expected values that fit the case; with "
            "lens.stride=1, optimizer.learning_rate=-1.0: Input should be greater than 0",
        ),
        (
            "{training.steps: [5, 1]}",
            "training.steps[1]: got 1; expected values that fit the case; with training.steps=1: "
            "lens.stride: expected at most training.steps (1)",
        ),
        ("{seeds: [1, 2]}", "seeds: got [1, 2]; expected leaves in model, data, optimizer, "),
        (
            "{model.options.api_key: [sesame], lens.order: [7]}",
            "lens.order[0]: got 7; expected values that fit the case; with "
            "model.options.api_key='a value that is not shown', lens.order=7: Input should be 1",
        ),
    ],
)
def test_a_typo_in_a_sweep_names_its_own_leaf(sweep: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(_OWN.replace("SWEEP", sweep))
    (found,) = _problems(path)
    assert found.startswith(f"cases.mine.sweep.{line}")


@pytest.mark.parametrize("name", ["Double descent", "../up", "1st", ""])
def test_a_case_name_must_be_a_folder_name(name: str, copy: Path) -> None:
    _rename(copy, DESCENT, name)
    (line,) = _problems(copy)
    assert "expected a case name of small letters, digits and '_'" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: [1, 2\ncases: 3\n", r"line 2, column 6: not valid YAML"),
        ("run: {seed: 0}\nrun: {seed: 1}\n", r'line 2, column 1: duplicate key "run"'),
        ("run: {executor: tcp://host:8786}\n", r"line 1, column \d+: .*in quotes"),
        ("a: *nowhere\n", r"line 1, column 4: not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", r"line 1, column 4: not valid YAML"),
        ("", r"the file is empty"),
        ("# nothing\n", r"the file is empty"),
        ("- run\n- cases\n", r"got a list; expected a mapping"),
        ("just text\n", r"got a str; expected a mapping"),
        ("a: \x00\n", r"not valid YAML"),
    ],
)
def test_a_file_that_is_not_a_mapping_is_one_message(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParametersError, match=message):
        load_parameters(path)


def test_a_missing_folder_or_binary_file_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ParametersError, match="no such file"):
        load_parameters(tmp_path / "nowhere.yaml")
    with pytest.raises(ParametersError, match="cannot be read"):
        load_parameters(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParametersError, match="not UTF-8"):
        load_parameters(path)


def test_numbers_are_read_as_dvc_reads_them(copy: Path) -> None:
    text = copy.read_text()
    assert "learning_rate: 2000.0" in text
    copy.write_text(text.replace("learning_rate: 2000.0", "learning_rate: 2e3"))
    case = load_parameters(copy).cases["grokking_polynomial"]
    assert case.model_dump()["training"]["learning_rate"] == 2000.0


def test_an_unknown_case_lists_those_there_are(repository: Path) -> None:
    parameters = load_parameters(repository / "params.yaml")
    with pytest.raises(ParametersError, match=r"'groking'; params\.yaml has approx"):
        case_of(parameters, "groking")


@pytest.mark.parametrize(
    "command", [["validate", "bad.yaml"], ["train", "a", "--params", "bad.yaml"]]
)
def test_the_command_ends_with_code_2_and_writes_nothing(
    command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("run: {sed: 0}\n")
    done = subprocess.run(
        [sys.executable, "-m", "telescope_pipeline.cli", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "run.sed: unknown key (value 0)" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]
