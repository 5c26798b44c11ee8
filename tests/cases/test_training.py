"""What every case's training keeps: determinism, resumption, plain training underneath."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from telescope_core.errors import ArtifactError, NonFiniteError
from telescope_pipeline.schemas.sections import AdamW, SGDWithRate
from telescope_pipeline.study.training.loop import Batches
from telescope_pipeline.study.training.optimizers import optimizer_of


def _module(kind: str, name: str) -> Any:
    return import_module(f"telescope_pipeline.cases.{kind}.{name}")


def _measured(history: pd.DataFrame) -> list[str]:
    return [name for name in history if "/" in name]


def test_members_are_told_apart_and_groups_differ_by_seed_only(
    kind: str, build: Callable[..., Any]
) -> None:
    members = _module(kind, "sweep").members(build(kind))
    names = [member.name for member in members]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    groups = defaultdict(list)
    for member in members:
        groups[member.group].append(member)
    for group in groups.values():
        assert [member.seed for member in group] == [0, 1]
        assert all(member.values == group[0].values for member in group)
    sweep = [tuple(group[0].values.items()) for group in groups.values()]
    assert len(set(sweep)) == len(sweep)


def test_close_learning_rates_keep_their_own_names(build: Callable[..., Any]) -> None:
    training = {
        "steps": 5,
        "batch_size": 4,
        "settings": [{"optimizer": {"name": "sgd"}, "learning_rates": [0.1, 0.1000000001]}],
    }
    case = build("approximation_quality", training=training)
    members = _module("approximation_quality", "sweep").members(case)
    assert len({member.name for member in members}) == 4


def test_data_has_a_file_for_every_member_and_a_plain_card(
    kind: str, build: Callable[..., Any], prepared: Callable[[str], Any]
) -> None:
    case, data = build(kind), prepared(kind)
    members = _module(kind, "sweep").members(case)
    assert {member.data for member in members} == set(data.files)
    card = json.loads(json.dumps(data.card, allow_nan=False))
    assert set(card["files"]) == set(data.files)
    for tensors in data.files.values():
        sets = {name.removesuffix("_inputs") for name in tensors if name.endswith("_inputs")}
        assert "train" in sets
        assert len(sets) >= 2
        for name in sets:
            assert len(tensors[f"{name}_inputs"]) == len(tensors[f"{name}_targets"])
        assert all(tensor.is_contiguous() for tensor in tensors.values())
        assert tensors["train_targets"].ndim == 1


def test_data_follows_the_seed_of_the_run(kind: str, build: Callable[..., Any]) -> None:
    prepare = _module(kind, "data").prepare
    case = build(kind, seeds=1)
    first, again, other = (prepare(case, seed).files for seed in (0, 0, 1))
    assert list(first) == list(again) == list(other)
    for stem, tensors in first.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, again[stem][name])
        assert any(not torch.equal(tensors[name], other[stem][name]) for name in tensors)


def test_histories_are_wide_numbers_over_increasing_steps(
    kind: str, trained: Callable[[str], tuple[Any, pd.DataFrame]]
) -> None:
    case, history = trained(kind)
    assert set(case.required_columns) <= set(history)
    assert history["step"].dtype == np.int64
    measured = _measured(history)
    assert all(history[name].dtype == np.float64 for name in measured)
    always = [name for name in measured if name not in case.nullable_columns]
    assert np.isfinite(history[always].to_numpy()).all()
    # Kernel norms are means over the steps done, of which there are none at first.
    first = 1 if kind == "boosting_vs_networks" else 0
    for _, part in history.groupby("member"):
        assert part["step"].iloc[0] == first
        assert part["step"].is_monotonic_increasing
        assert part["step"].is_unique


def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    kind: str, build: Callable[..., Any], train: Callable[..., Any], checkpoints: Any
) -> None:
    case = build(kind)
    # The last member: of the sweeps, the one with the most state (momentum, or Adam's moments).
    member = _module(kind, "sweep").members(case)[-1]
    whole = train(kind, case, member)
    for saves in (1, 2):
        checkpoint = checkpoints.StoredCheckpoint(stop_after=saves)
        with pytest.raises(checkpoints.Interrupted):
            train(kind, case, member, checkpoint)
        checkpoint.stop_after = None
        resumed = train(kind, case, member, checkpoint)
        pd.testing.assert_frame_equal(whole.history, resumed.history, check_exact=True)
        assert list(whole.final) == list(resumed.final)
        for name, tensor in whole.final.items():
            assert torch.equal(tensor, resumed.final[name])


def test_a_checkpoint_of_another_model_is_refused(
    build: Callable[..., Any], train: Callable[..., Any], checkpoints: Any
) -> None:
    small, large = (build("double_descent", model={"widths": [width]}, seeds=1) for width in (2, 3))
    members = _module("double_descent", "sweep").members
    checkpoint = checkpoints.StoredCheckpoint(stop_after=1)
    with pytest.raises(checkpoints.Interrupted):
        train("double_descent", small, members(small)[0], checkpoint)
    with pytest.raises(ArtifactError, match="does not fit the model"):
        train("double_descent", large, members(large)[0], checkpoint)


def test_a_member_does_not_depend_on_the_rest_of_the_sweep(
    kind: str, build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    case = build(kind)
    member = _module(kind, "sweep").members(case)[-2]
    whole = train(kind, case, member)
    alone = train(kind, case.narrowed(member.values, member.seed), member)
    pd.testing.assert_frame_equal(whole.history, alone.history, check_exact=True)


def test_seeds_of_a_group_give_different_runs(
    kind: str, trained: Callable[[str], tuple[Any, pd.DataFrame]]
) -> None:
    _, history = trained(kind)
    for _, group in history.groupby("group"):
        at_start = group.drop_duplicates("member")[_measured(history)]
        assert len(at_start.drop_duplicates()) == len(at_start) == 2


def test_settings_share_weights_and_batches(
    trained: Callable[[str], tuple[Any, pd.DataFrame]],
) -> None:
    _, history = trained("approximation_quality")
    at_start = history[history["step"] == 0]
    sigmoid = at_start["setting"].str.endswith("-sigmoid")
    assert sigmoid.any()
    for part in (at_start[sigmoid], at_start[~sigmoid]):
        assert part.groupby("seed")["test/mse"].nunique().tolist() == [1, 1]
    # A sigmoid on top of the same weights: the outputs are near 1/2, so the error is near 1/4.
    assert at_start[sigmoid]["test/mse"].between(0.2, 0.3).all()


def test_grokking_trains_as_gradient_descent_written_out(
    build: Callable[..., Any], prepared: Callable[[str], Any], train: Callable[..., Any]
) -> None:
    """The loop, against the gradient of the loss written by hand."""
    case = build("grokking_polynomial")
    member = _module("grokking_polynomial", "sweep").members(case)[0]
    result = train("grokking_polynomial", case, member)
    data = {k: v.double() for k, v in prepared("grokking_polynomial").files[member.data].items()}
    x, y = data["train_inputs"], data["train_targets"]
    n, h, epsilon = len(x), case.model.hidden, case.model.epsilon
    untrained = build(
        "grokking_polynomial",
        training={"steps": 4, "learning_rate": 1e-30, "comparison": None},
    )
    theta = train("grokking_polynomial", untrained, member).final["hidden.weight"].double()
    errors = []
    for _ in range(case.training.steps + 1):
        u = x @ theta.T
        f = (u + epsilon / 2 * u**2).mean(dim=1)
        errors.append(float((f - y).square().mean()))
        slope = (f - y)[:, None] * (1 + epsilon * u) / (n * h)
        theta = theta - case.training.learning_rate * slope.T @ x
    recorded = result.history
    assert recorded["train/mse"].tolist() == pytest.approx(
        [errors[step] for step in recorded["step"]], rel=1e-4
    )


def test_batches_cover_each_epoch_once_in_orders_of_their_own() -> None:
    batches = Batches(rows=23, size=5, seed=3)
    assert batches.per_epoch == 5
    epochs = [
        torch.cat([batches.at(5 * epoch + position) for position in range(5)]) for epoch in (0, 1)
    ]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(23))
    assert epochs[0].tolist() != epochs[1].tolist()
    # Any step can be asked for at any time: this is what resuming needs.
    assert torch.equal(Batches(23, 5, seed=3).at(7), batches.at(7))
    assert not torch.equal(Batches(23, 5, seed=4).at(7), batches.at(7))


def test_a_diverging_run_ends_in_one_error(
    build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    training = {"steps": 200, "learning_rate": 1e9, "comparison": None}
    case = build("grokking_polynomial", training=training)
    member = _module("grokking_polynomial", "sweep").members(case)[0]
    with pytest.raises(NonFiniteError):
        train("grokking_polynomial", case, member)


def test_optimizers_get_their_options() -> None:
    model = torch.nn.Linear(2, 1)
    settings = SGDWithRate(name="sgd", learning_rate=0.1, momentum=0.9, nesterov=True)
    sgd = optimizer_of(settings, model)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["momentum"] == 0.9
    assert sgd.defaults["lr"] == 0.1
    decayed = AdamW(name="adamw", betas=[0.8, 0.9], weight_decay=0.3)
    adamw = optimizer_of(decayed, model, 0.2)
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["lr"] == 0.2
    assert adamw.defaults["betas"] == (0.8, 0.9)
    assert adamw.defaults["weight_decay"] == 0.3
