"""Training of the transformer on modular addition is plain AdamW, and the data are all sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.modular_addition.sweep import members
from telescope_pipeline.study.networks.transformer import Transformer
from telescope_pipeline.study.training.loop import Batches
from telescope_pipeline.study.training.measures import class_accuracy

KIND = "modular_addition"


def test_training_is_plain_adamw_bit_for_bit(
    build: Callable[..., Any], prepared: Callable[[str], Any], train: Callable[..., Any]
) -> None:
    """The same loop in plain torch, with no lens, batches and warm-up by hand."""
    case = build(KIND)
    member = members(case)[1]
    result = train(KIND, case, member)
    tensors = prepared(KIND).files[member.data]
    x, y = tensors["train_inputs"], tensors["train_targets"]
    model = Transformer(
        6, 3, 5, width=8, heads=2, hidden=12, seed=derive_seed(0, KIND, "weights", 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=1.0)
    batches = Batches(len(x), 10, derive_seed(0, KIND, "batches", 1))
    losses = {}
    for step in range(21):
        with torch.no_grad():
            losses[step] = float(cross_entropy(model(x).double(), y))
        optimizer.param_groups[0]["lr"] = 0.01 * min(1.0, (step + 1) / 5)
        if step < 20:
            index = batches.at(step)
            optimizer.zero_grad()
            cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, result.final[name]), name
    history = result.history
    recorded = dict(zip(history["step"], history["train/cross_entropy"], strict=True))
    assert recorded == {step: losses[step] for step in recorded}


def test_full_batch_training_takes_every_sum_at_each_step(
    build: Callable[..., Any], train: Callable[..., Any]
) -> None:
    settings = {"steps": 8, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    member = members(build(KIND))[0]
    finals = []
    for batch_size in (None, 15):
        case = build(KIND, training=settings | {"batch_size": batch_size})
        finals.append(train(KIND, case, member).final)
    for name, value in finals[0].items():
        assert torch.equal(value, finals[1][name])


def test_the_sets_are_all_sums_and_right(prepared: Callable[[str], Any]) -> None:
    files = prepared(KIND).files
    for tensors in files.values():
        rows = torch.cat([tensors["train_inputs"], tensors["test_inputs"]])
        sums = torch.cat([tensors["train_targets"], tensors["test_targets"]])
        assert len({tuple(row) for row in rows.tolist()}) == len(rows) == 25
        assert torch.equal((rows[:, 0] + rows[:, 1]) % 5, sums)
        assert len(tensors["train_inputs"]) == 15
    first, second = (tensors["train_inputs"] for tensors in files.values())
    assert not torch.equal(first, second)


def test_the_telescoped_model_is_closer_than_the_lazy_one_on_a_small_run(
    trained: Callable[[str], Any],
) -> None:
    _, history = trained(KIND)
    final = history[history["step"] == history["step"].max()]
    assert (final["test/approximation_error"] < final["test/linearization_error"]).all()
    assert (history["train/degrees_of_freedom"].iloc[0]) == 0


def test_accuracy_counts_the_largest_output() -> None:
    outputs = torch.tensor([[0.1, 0.9, 0.3], [2.0, -1.0, 0.0], [-3.0, -2.0, -1.0]])
    assert class_accuracy(outputs, torch.tensor([1, 1, 2])) == pytest.approx(2 / 3)
