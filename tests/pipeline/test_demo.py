from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from telescope_core.errors import ArtifactError
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.demo import demo
from telescope_pipeline.demo.reading import Reading
from telescope_pipeline.demo.run import _SETTINGS
from telescope_pipeline.demo.screen import sparkline

COMMAND = [sys.executable, "-m", "telescope_pipeline.cli", "demo", "--out"]
FILES = ["demo.json", "grokking.csv", "grokking.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("parent") / "demo"
    demo(made, steps=90)
    return made


def reading_of(errors: tuple[list[float], list[float]], p: tuple[list[float], list[float]]) -> str:
    """Both sentences about a made-up run with records at steps 0, 10, 100 and 1000."""
    columns = {
        "step": [0, 10, 100, 1000],
        "train/mse": errors[0],
        "test/mse": errors[1],
        "train/effective_parameters": p[0],
        "test/effective_parameters": p[1],
    }
    case = GrokkingPolynomialCase.model_validate(_SETTINGS)
    return " ".join(Reading.of(pd.DataFrame(columns), case).sentences)


def test_a_run_leaves_its_picture_its_numbers_and_what_to_see(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (folder / "grokking.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((folder / "demo.json").read_text())
    table = pd.read_csv(folder / "grokking.csv")
    assert table["step"].iloc[-1] == 90
    assert told["numbers"]["p_train_end"] == table["train_effective_parameters"].iloc[-1]
    # Ninety steps are enough to memorise, and honest about what they are not enough for.
    crossed = table["step"][table["train_mse"] <= 0.1].iloc[0]
    assert told["numbers"]["memorised_step"] <= crossed
    assert table["test_mse"].min() > 0.1
    assert "has not grokked" in told["what_to_see"][0]


def test_the_same_seed_gives_the_same_bytes_in_a_folder_of_its_own(folder: Path) -> None:
    before = {name: (folder / name).read_bytes() for name in FILES}
    demo(folder, steps=90)
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"made_by": "me"}')
    with pytest.raises(ArtifactError, match="name another folder with --out"):
        demo(tmp_path, steps=6)
    assert [path.name for path in tmp_path.iterdir()] == ["demo.json"]


def test_ctrl_c_ends_it_without_a_trace(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, str(tmp_path / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background hands down that interruptions are ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("step     0: train error ")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert "interrupted" in process.stderr.read()
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([1.0, 0.1, 0.01, 0.001], [1.0, 1.0, 0.5, 0.01], "that delay is grokking"),
        ([1.0, 0.1, 0.01, 0.001], [1.0, 0.1, 0.01, 0.001], "this is no grokking"),
        ([1.0, 0.1, 0.01, 0.001], [1.0, 1.0, 1.0, 0.9], "has not grokked"),
        ([1.0, 1.0, 0.9, 0.8], [1.0, 1.0, 0.9, 0.9], "neither memorised nor generalised"),
    ],
)
def test_the_first_sentence_is_true_of_the_run(
    train: list[float], test: list[float], said: str
) -> None:
    assert said in reading_of((train, test), ([0, 10, 20, 30], [0, 10, 15, 20]))


@pytest.mark.parametrize(
    ("p_test", "said"), [([0, 10, 15, 20], "30 against 20"), ([0, 10, 25, 40], "no gap opened")]
)
def test_the_second_sentence_tells_whether_a_gap_opened(p_test: list[float], said: str) -> None:
    errors = [1.0, 0.1, 0.01, 0.001], [1.0, 1.0, 0.5, 0.01]
    assert said in reading_of(errors, ([0, 10, 20, 30], p_test))


def test_a_curve_in_one_line_spans_its_scale_and_fits() -> None:
    assert sparkline([0.0, 1.0], 0.0, 1.0) == "▁█"
    assert sparkline([1.0, 1.0], 1.0, 1.0) == "▁▁"
    long = sparkline(list(np.linspace(0, 1, 1000)), 0.0, 1.0)
    assert len(long) == 40
    assert long == "".join(sorted(long))
