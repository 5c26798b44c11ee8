"""Training of the weight-averaging case: data, spawning, resumption, what is measured."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from telescope_core.connectivity import gradient_change, interpolate, recompute_statistics
from telescope_core.errors import (
    ArtifactError,
    NonFiniteError,
)
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.weight_averaging import sweep
from telescope_pipeline.cases.weight_averaging.data import prepare
from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.cases.weight_averaging.sweep import members
from telescope_pipeline.cases.weight_averaging.training.images import augment
from telescope_pipeline.cases.weight_averaging.training.train import train
from telescope_pipeline.contract import TrainingJob
from telescope_pipeline.store.table_checks import check_member_history
from telescope_pipeline.study.datasets import images
from telescope_pipeline.study.datasets.dataset import Dataset
from telescope_pipeline.study.networks.resnet import ResidualNetwork
from telescope_pipeline.study.training.loop import Batches

_SMALL: dict[str, Any] = {
    "kind": "weight_averaging",
    "seeds": 2,
    "data": {"source": "digits", "train_size": 60, "test_size": 40, "pretrain_size": 50},
    "model": {"widths": [2, 3], "blocks": 1},
    "training": {
        "starts": ["scratch", "pretrained"],
        "batch_size": 16,
        "crop": 1,
        "scratch": {"steps": 9, "learning_rate": 0.1, "milestones": [5, 7]},
        "pretraining": {"steps": 5, "learning_rate": 0.1},
        "finetuning": {"steps": 6, "learning_rate": 0.05},
    },
    "lens": {
        "spawn_steps": [0, 2, 4, 5],
        "alphas": 3,
        "gradient_gap": 2,
        "gradient_rows": 6,
        "checkpoint_every": 7,
    },
    "claims": {},
    "plot": {"dpi": 60},
}


def _case(**changes: Any) -> WeightAveragingCase:
    """The small case; ``training__crop=0`` changes one leaf."""
    raw = copy.deepcopy(_SMALL)
    for path, value in changes.items():
        *sections, leaf = path.split("__")
        inner = raw
        for section in sections:
            inner = inner[section]
        inner[leaf] = value
    return WeightAveragingCase.model_validate(raw)


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, Tensor]]:
    return prepare(_case(), 0).files


@pytest.fixture
def run(files: dict[str, dict[str, Tensor]], checkpoints: Any) -> Callable[..., Any]:
    def train_member(case: WeightAveragingCase, name: str, checkpoint: Any = None) -> Any:
        (member,) = (member for member in members(case) if member.name == name)
        return train(
            TrainingJob(
                case,
                member,
                files[member.data],
                seed=0,
                device=torch.device("cpu"),
                checkpoint=checkpoint or checkpoints.StoredCheckpoint(),
                progress=lambda done, total: None,
            )
        )

    return train_member


def test_members_are_starts_and_seeds_and_narrowing_keeps_each() -> None:
    case = _case()
    found = members(case)
    assert [member.name for member in found] == [
        "scratch_seed-0",
        "scratch_seed-1",
        "pretrained_seed-0",
        "pretrained_seed-1",
    ]
    for member in found:
        assert member in members(case.narrowed(member.values, member.seed))


def test_the_parts_of_the_digits_are_disjoint_and_labelled(
    files: dict[str, dict[str, Tensor]],
) -> None:
    from sklearn import datasets

    digits = datasets.load_digits()
    raw = torch.from_numpy(digits.images).double()
    for tensors in files.values():
        # Undo normalisation and rotation: what is left are rows of the data set, each once.
        rows = []
        for part, reference in (("train", "train"), ("test", "train"), ("pretrain", "pretrain")):
            inputs = tensors[f"{part}_inputs"].squeeze(1).double()
            assert inputs.shape[1:] == (8, 8)
            if part == "pretrain":
                inputs = torch.rot90(inputs, -1, (1, 2))
            low = tensors[f"{reference}_inputs"].min()
            high = tensors[f"{reference}_inputs"].max()
            pixels = ((inputs - low) / (high - low) * 16).round()
            matches = (pixels[:, None] == raw[None]).all(dim=(2, 3))
            assert matches.sum(dim=1).tolist() == [1] * len(pixels)
            found = matches.double().argmax(dim=1)
            assert tensors[f"{part}_targets"].tolist() == digits.target[found.numpy()].tolist()
            rows += found.tolist()
        assert len(set(rows)) == len(rows) == 150
    assert not torch.equal(files["seed-0"]["train_inputs"], files["seed-1"]["train_inputs"])


def test_inputs_are_normalised_and_the_card_is_plain() -> None:
    prepared = prepare(_case(), 0)
    json.dumps(prepared.card, allow_nan=False)
    assert set(prepared.card["files"]) == set(prepared.files)
    for tensors in prepared.files.values():
        for part in ("train", "pretrain"):
            assert float(tensors[f"{part}_inputs"].mean()) == pytest.approx(0, abs=1e-5)
            assert float(tensors[f"{part}_inputs"].std()) == pytest.approx(1, abs=1e-5)


def _coloured(rows: int, seed: int) -> Dataset:
    inputs = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    targets = torch.arange(rows) % 10
    return Dataset(inputs, targets, inputs[:12], targets[:12], {"name": "made up"})


def test_cifar_and_svhn_are_loaded_in_colour_once_for_all_seeds(
    monkeypatch: pytest.MonkeyPatch, checkpoints: Any
) -> None:
    asked = []

    def loader(name: str, rows: int) -> Callable[..., Dataset]:
        def load(**options: Any) -> Dataset:
            asked.append((name, options))
            return _coloured(rows, len(name))

        return load

    monkeypatch.setattr(images, "cifar10", loader("cifar10", 40))
    monkeypatch.setattr(images, "svhn", loader("svhn", 30))
    case = _case(data={"source": "cifar10", "train_size": 40}, training__flip=True)
    (tensors,) = prepare(case, 0).files.values()
    assert [name for name, _ in asked] == ["cifar10", "svhn"]
    for _, options in asked:
        assert (options["gray"], options["flat"], options["size"]) == (False, False, None)
        assert options["standardise"]
        assert options["classes"] is None
    assert asked[0][1]["train_size"] == 40
    assert asked[1][1]["train_size"] is None
    assert tensors["pretrain_inputs"].shape == (30, 3, 8, 8)
    assert {member.data for member in members(case)} == {"shared"}
    (member,) = (member for member in members(case) if member.name == "pretrained_seed-1")
    trained = train(
        TrainingJob(
            case,
            member,
            tensors,
            seed=0,
            device=torch.device("cpu"),
            checkpoint=checkpoints.StoredCheckpoint(),
            progress=lambda done, total: None,
        )
    )
    assert trained.final["stem.weight"].shape == (2, 3, 3, 3)
    check_member_history(trained.history, case, "colour")


def test_without_pretraining_svhn_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "cifar10", lambda **options: _coloured(20, 0))
    monkeypatch.setattr(images, "svhn", lambda **options: pytest.fail("was asked for"))
    data = {"source": "cifar10", "pretrain_source": None}
    case = _case(data=data, training__starts=["scratch"])
    (tensors,) = prepare(case, 0).files.values()
    assert not any(name.startswith("pretrain") for name in tensors)
    with pytest.raises(ValidationError, match=r"only scratch, since data\.pretrain_source"):
        _case(data=data)


def test_history_is_what_the_tables_allow(run: Callable[..., Any]) -> None:
    case = _case()
    for name, steps in (("scratch_seed-0", [0, 2, 4, 5]), ("pretrained_seed-0", [0, 2, 4])):
        history = run(case, name).history
        check_member_history(history, case, name)
        # t' = 5 is less than gradient_gap before the end of fine-tuning.
        assert history["step"].tolist() == steps
        assert np.isfinite(history.to_numpy()).all()


@pytest.mark.parametrize("name", ["scratch_seed-1", "pretrained_seed-0"])
def test_a_run_resumed_anywhere_equals_the_uninterrupted_one(
    name: str, run: Callable[..., Any], checkpoints: Any
) -> None:
    case = _case(lens__checkpoint_every=3)
    whole = run(case, name)
    # Each save interrupts once: in pre-training, in the parent, in children and between them.
    checkpoint = checkpoints.StoredCheckpoint()
    for saves in range(1, 100):
        checkpoint.stop_after = saves
        try:
            resumed = run(case, name, checkpoint)
        except checkpoints.Interrupted:
            continue
        break
    assert checkpoint.saves >= 10
    pd.testing.assert_frame_equal(whole.history, resumed.history, check_exact=True)
    for key, tensor in whole.final.items():
        assert torch.equal(tensor, resumed.final[key])


def test_how_often_a_run_is_saved_changes_nothing(run: Callable[..., Any]) -> None:
    often, never = (
        run(_case(lens__checkpoint_every=every), "scratch_seed-0") for every in (1, 1000)
    )
    pd.testing.assert_frame_equal(often.history, never.history, check_exact=True)


def test_a_checkpoint_of_another_plan_is_refused(run: Callable[..., Any], checkpoints: Any) -> None:
    checkpoint = checkpoints.StoredCheckpoint(stop_after=1)
    with pytest.raises(checkpoints.Interrupted):
        run(_case(lens__checkpoint_every=2), "pretrained_seed-0", checkpoint)
    with pytest.raises(ArtifactError, match="written in 'pretrained'"):
        run(_case(), "scratch_seed-0", checkpoint)


def test_a_member_does_not_depend_on_the_other_spawn_steps_or_members(
    run: Callable[..., Any],
) -> None:
    whole = run(_case(), "scratch_seed-0").history
    fewer = run(_case(lens__spawn_steps=[2, 4], seeds=1), "scratch_seed-0").history
    same = whole[whole["step"].isin([2, 4])].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, fewer, check_exact=True)


def test_measures_are_those_of_a_plain_training_loop(
    run: Callable[..., Any], files: dict[str, dict[str, Tensor]]
) -> None:
    """Parent, children, average and gradient change at one t', written out."""
    case = _case(training__crop=0)
    tensors = files["seed-0"]
    x, y = tensors["train_inputs"], tensors["train_targets"]
    test_x, test_y = tensors["test_inputs"], tensors["test_targets"]

    def seed_of(*purpose: str | int) -> int:
        return derive_seed(0, "weight_averaging", *purpose, 0)

    model = ResidualNetwork(1, 10, widths=(2, 3), blocks=1, seed=seed_of("weights"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def go(net: Any, opt: Any, first: int, last: int, order: int) -> dict[str, Tensor]:
        net.train()
        for step in range(first, last):
            index = Batches(60, 16, order).at(step)
            opt.param_groups[0]["lr"] = 0.1 * 0.1 ** ((step >= 5) + (step >= 7))
            opt.zero_grad()
            torch.nn.functional.cross_entropy(net(x[index]), y[index]).backward()
            opt.step()
        return copy.deepcopy(net.state_dict())

    def accuracy(weights: dict[str, Tensor]) -> float:
        net = copy.deepcopy(model)
        net.load_state_dict(weights)
        recompute_statistics(net, [x])
        with torch.no_grad():
            return float((net.eval()(test_x).argmax(1) == test_y).double().mean())

    at_t = go(model, optimizer, 0, 2, seed_of("batches"))
    ends = []
    for which in ("first", "second"):
        child, its = copy.deepcopy((model, optimizer))
        ends.append(go(child, its, 2, 9, seed_of("batches of a child", 2, 0, which)))
    later = go(model, optimizer, 2, 4, seed_of("batches"))

    row = run(case, "scratch_seed-0").history.set_index("step").loc[2]
    children = [accuracy(weights) for weights in ends]
    average = accuracy(interpolate(*ends, 0.5))
    assert row[sweep.children_column("recomputed")] == pytest.approx(sum(children) / 2)
    assert row[sweep.path_column("recomputed", 0.5)] == pytest.approx(average)
    assert row[sweep.gap_column("recomputed")] == pytest.approx(sum(children) / 2 - average)
    changes = gradient_change(model, at_t, later, test_x[:6])
    for layer, value in changes.items():
        assert row[sweep.change_column(layer)] == pytest.approx(value, rel=1e-4)


def test_both_starts_share_everything_but_the_pretraining(
    run: Callable[..., Any], files: dict[str, dict[str, Tensor]]
) -> None:
    """Without updates in pre-training they would differ in the last layer alone."""
    phases = {
        f"training__{phase}": {"steps": 6, "learning_rate": 1e-12}
        for phase in ("scratch", "pretraining", "finetuning")
    }
    case = _case(**phases, lens__spawn_steps=[0, 1])
    scratch, other = (run(case, f"{start}_seed-0").final for start in ("scratch", "pretrained"))
    for name, value in scratch.items():
        if "running" in name or "tracked" in name:
            continue
        same = torch.allclose(value, other[name], atol=1e-7)
        assert same != (name in {"head.weight", "head.bias"}), name


def test_several_pairs_are_averaged(run: Callable[..., Any]) -> None:
    one = run(_case(), "scratch_seed-0").history
    three = run(_case(lens__pairs=3), "scratch_seed-0").history
    column = sweep.children_column("recomputed")
    assert not np.array_equal(one[column], three[column])
    pd.testing.assert_series_equal(one["test/loss"], three["test/loss"])


def test_learning_rates_fall_at_the_milestones() -> None:
    phase = _case().training.scratch
    rates = [phase.rate_at(step) for step in (0, 4, 5, 6, 7, 8)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_crops_are_windows_of_the_padded_image_and_flips_are_mirrors() -> None:
    images = torch.arange(1.0, 61.0).view(5, 1, 3, 4).repeat(40, 1, 1, 1)
    images = torch.cat([images, images + 100], dim=1)
    assert augment(images, 0, False, 0) is images
    seen = augment(images, 1, True, 7)
    assert torch.equal(seen, augment(images, 1, True, 7))
    assert not torch.equal(seen, augment(images, 1, True, 8))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    used = set()
    for row in range(len(images)):
        windows = {
            (i, j, mirrored): window.flip(2) if mirrored else window
            for i in range(3)
            for j in range(3)
            for mirrored in (False, True)
            for window in [padded[row, :, i : i + 3, j : j + 4]]
        }
        matching = [key for key, window in windows.items() if torch.equal(window, seen[row])]
        assert len(matching) == 1
        used.add(matching[0])
    assert len(used) == 18


def test_a_diverging_run_ends_in_one_error(run: Callable[..., Any]) -> None:
    case = _case(training__scratch={"steps": 9, "learning_rate": 1e30})
    with pytest.raises(NonFiniteError):
        run(case, "scratch_seed-0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data__pretrain_size": 1700}, "at most 1797 rows"),
        ({"training__batch_size": 55}, r"at most data.train_size and data.pretrain_size \(50\)"),
        ({"lens__gradient_rows": 41}, r"at most data.test_size \(40\)"),
        ({"lens__spawn_steps": [0, 8]}, "before the end, step 9"),
        ({"model__widths": [4, 2]}, "widths that do not decrease"),
        ({"training__starts": ["scratch", "scratch"]}, "differ from each other"),
        ({"data": {"source": "imagenet"}}, "source"),
        ({"training__scratch": {"steps": 9, "learning_rate": 0.1, "factor": 2.0}}, "factor"),
    ],
)
def test_impossible_parameters_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _case(**change)


def test_the_run_tells_its_progress(files: dict[str, dict[str, Tensor]], checkpoints: Any) -> None:
    told: list[tuple[int, int]] = []
    case = _case(seeds=1)
    train(
        TrainingJob(
            case,
            members(case)[1],
            files["seed-0"],
            seed=0,
            device=torch.device("cpu"),
            checkpoint=checkpoints.StoredCheckpoint(),
            progress=lambda done, total: told.append((done, total)),
        )
    )
    # Pre-training, the parent to t' = 4 and the gap, and two children from each t'.
    total = 5 + 6 + 2 * (6 + 4 + 2)
    assert told[-1] == (total, total)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
