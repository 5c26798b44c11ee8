"""The stages one by one, on the tiny case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from telescope_core.errors import ArtifactError, ExecutionError, TelescopeError
from telescope_pipeline.cost import recorded_cost
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from conftest import Stages


def _bytes(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _run(stages: Stages, *names: str) -> None:
    for name in names:
        stages.run(name)


def test_prepare_describes_what_it_writes(stages: Stages) -> None:
    _run(stages, "prepare")
    folder = stages.root / "data" / "first"
    card = json.loads((folder / "dataset.json").read_text())
    assert list(card["files"]) == ["seed-0.safetensors", "seed-1.safetensors"]
    assert card["files"]["seed-0.safetensors"]["tensors"]["x"] == {
        "shape": [20],
        "dtype": "float32",
    }
    assert card["card"] == {"title": "A line", "rows": 20}
    assert card["parameters"] == {"label_noise": 0.1}
    before = _bytes(folder)
    _run(stages, "prepare")
    assert _bytes(folder) == before


def test_a_manifest_says_what_decided_the_result_and_nothing_else(stages: Stages) -> None:
    _run(stages, "prepare", "train")
    path = stages.root / "runs" / "first" / "width-0003_seed-1" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["values"] == {"width": 3}
    assert manifest["parameters"]["model"] == {"widths": [3]}
    assert not {"claims", "plot", "seeds"} & set(manifest["parameters"])
    assert manifest["run"] == {"seed": 0, "device": "cpu", "threads": 1}
    assert set(manifest["libraries"]) >= {"python", "torch", "numpy"}
    assert set(manifest["outputs"]) == {"history.parquet", "final.safetensors"}
    assert str(stages.root) not in path.read_text()


def test_timing_is_kept_apart(stages: Stages) -> None:
    _run(stages, "prepare", "train")
    timing = json.loads((stages.root / "timing" / "first.json").read_text())["members"]
    assert len(timing) == 4
    one = timing["width-0002_seed-0"]
    assert one["wall_seconds"] >= 0
    assert one["cpu_seconds"] >= 0
    assert one["peak_memory_mb"] > 1
    assert one["from_scratch_folder"] is False
    _run(stages, "train")
    timing = json.loads((stages.root / "timing" / "first.json").read_text())["members"]
    assert timing["width-0002_seed-0"] == {**one, "from_scratch_folder": True}
    cost = recorded_cost(Layout(stages.root), "first")
    assert cost == {name: each["cpu_seconds"] for name, each in timing.items()}
    assert recorded_cost(Layout(stages.root), "second") is None


def test_a_wider_sweep_trains_only_what_is_new(stages: Stages) -> None:
    _run(stages, "prepare", "train")
    assert len(stages.trained()) == 4
    before = _bytes(stages.root / "runs" / "first")
    stages.set("cases.first.model.widths", [2, 3, 4])
    stages.set("cases.first.plot.dpi", 90)
    _run(stages, "train")
    assert stages.trained() == {"width-0004_seed-0", "width-0004_seed-1"}
    after = _bytes(stages.root / "runs" / "first")
    assert {name: after[name] for name in before} == before

    stages.set("cases.first.model.widths", [3])
    _run(stages, "train")
    assert stages.trained() == set()
    runs = sorted(path.name for path in (stages.root / "runs" / "first").iterdir())
    assert runs == ["width-0003_seed-0", "width-0003_seed-1"]


def test_another_seed_trains_only_that_seed(stages: Stages) -> None:
    _run(stages, "prepare", "train")
    stages.trained()
    stages.set("cases.first.seeds", 3)
    _run(stages, "prepare", "train")
    assert stages.trained() == {"width-0002_seed-2", "width-0003_seed-2"}


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        ("cases.first.training.epochs", 7),
        ("cases.first.lens.stride", 3),
        ("cases.first.data.label_noise", 0.3),
        ("run.seed", 1),
    ],
)
def test_what_matters_to_training_trains_again(leaf: str, value: Any, stages: Stages) -> None:
    _run(stages, "prepare", "train")
    stages.trained()
    stages.set(leaf, value)
    _run(stages, "prepare", "train")
    assert len(stages.trained()) == 4


@pytest.mark.parametrize(
    ("leaf", "value"),
    [("run.workers", 7), ("tracking.project", "x"), ("cases.first.plot.dpi", 99)],
)
def test_what_does_not_matter_to_training_trains_nothing(
    leaf: str, value: Any, stages: Stages
) -> None:
    _run(stages, "prepare", "train")
    stages.trained()
    stages.set(leaf, value)
    _run(stages, "train")
    assert stages.trained() == set()


def test_a_damaged_scratch_folder_costs_time_only(stages: Stages) -> None:
    _run(stages, "prepare", "train")
    stages.trained()
    before = _bytes(stages.root / "runs" / "first")
    damaged = next((stages.root / ".telescope" / "members").rglob("final.safetensors"))
    damaged.write_bytes(b"nonsense")
    _run(stages, "train")
    assert len(stages.trained()) == 1
    assert _bytes(stages.root / "runs" / "first") == before


def test_train_refuses_data_that_is_not_what_the_card_says(stages: Stages) -> None:
    _run(stages, "prepare")
    path = stages.root / "data" / "first" / "seed-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is not the file that dataset\.json describes"):
        _run(stages, "train")


def test_a_failed_member_leaves_the_old_runs(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(stages, "prepare", "train")
    before = _bytes(stages.root / "runs")
    stages.set("cases.first.training.epochs", 9)
    monkeypatch.setenv("TINY_FAIL", "width-0003_seed-0")
    with pytest.raises(ExecutionError, match="member width-0003_seed-0 failed: the loss is nan"):
        _run(stages, "train")
    assert _bytes(stages.root / "runs") == before


def test_metrics_join_the_members(stages: Stages) -> None:
    _run(stages, "prepare", "train", "metrics")
    results = stages.root / "results" / "first"
    history = pd.read_parquet(results / "history.parquet")
    assert list(history.columns[:5]) == ["member", "group", "seed", "width", "step"]
    assert len(history) == 4 * 6
    (claim,) = json.loads((results / "claims.json").read_text())
    assert list(claim) == ["id", "statement", "source", "observed", "threshold", "holds"]
    assert claim["holds"] is True
    before = _bytes(results)
    _run(stages, "metrics")
    assert _bytes(results) == before


@pytest.mark.parametrize("damage", ["swapped", "truncated", "manifest"])
def test_metrics_refuse_damaged_runs_and_keep_the_results(damage: str, stages: Stages) -> None:
    _run(stages, "prepare", "train", "metrics")
    before = _bytes(stages.root / "results")
    first = stages.root / "runs" / "first" / "width-0002_seed-0" / "history.parquet"
    if damage == "swapped":
        other = first.parent.with_name("width-0002_seed-1") / "history.parquet"
        first.write_bytes(other.read_bytes())
    elif damage == "truncated":
        first.write_bytes(first.read_bytes()[:-9])
    else:
        first.with_name("manifest.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"width-0002_seed-0.*train it again"):
        _run(stages, "metrics")
    assert _bytes(stages.root / "results") == before


def test_plots_depend_on_the_history_alone(stages: Stages) -> None:
    _run(stages, "prepare", "train", "metrics", "plot")
    results = stages.root / "results" / "first"
    before = _bytes(results)
    assert {"plots/error.png", "plots/error.csv", "figures.json"} < set(before)
    _run(stages, "plot")
    assert _bytes(results) == before
    stages.set("cases.first.plot.dpi", 72)
    _run(stages, "plot")
    # What the figures tell is the same; the description names other pictures.
    after = _bytes(results)
    changed = {name for name, content in after.items() if content != before[name]}
    assert changed == {"plots/error.png", "figures.json"}


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("data", "torch.linspace(-1, 1, 20)", "torch.full((20,), torch.nan)", "x holds NaN"),
        ("training/train", '"test/mse": mse * 1.5', '"test/mse": -1.0', "expected 0 or more"),
        ("training/train", '"test/mse": mse', '"Test MSE": mse', "unexpected column Test MSE"),
        ("training/train", '"step": epoch', '"step": 0', "a step that increases"),
        ("sweep", '"width-{w:04d}_seed-{s}"', '"width/{w}/{s}"', "cannot name a folder"),
        ("sweep", "_seed-{s}", "", "two members are called width-0002"),
        ("sweep", '{"width": w}', '{"width": w + 1}', "narrowed must keep"),
        ("sweep", 'f"seed-{s}")', '"shared")', r"shared\.safetensors"),
        ("training/train", "return Trained(frame", "return Trained(frame[:0]", "has no rows"),
        ("training/train", '{"weights": weights})\n', '{"w": weights / 0})\n', "w holds NaN"),
        ("metrics", '{"test_mse": value}', '{"test_mse": float("inf")}', "expected a finite"),
        ("claims", "return [", "return 2 * [", "two claims have the same id"),
        ("figures", "return [", "return 2 * [", "two figures have the same name"),
    ],
)
def test_a_kind_that_breaks_its_contract_is_told_how(
    part: str, old: str, new: str, message: str, stages: Stages
) -> None:
    stages.edit(part, old, new)
    with pytest.raises(TelescopeError, match=message):
        _run(stages, "prepare", "train", "metrics", "plot")
