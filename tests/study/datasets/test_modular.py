"""Modular addition: every pair once, split by the seed."""

from __future__ import annotations

import json

import pytest
import torch

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.modular import modular_addition


@pytest.mark.parametrize("modulus", [2, 7, 12])
def test_every_pair_is_in_exactly_one_set_with_its_sum(modulus: int) -> None:
    sums = modular_addition(modulus, 0.4, seed=1)
    inputs = torch.cat([sums.train_inputs, sums.test_inputs])
    targets = torch.cat([sums.train_targets, sums.test_targets])
    assert len(sums.train_inputs) == round(0.4 * modulus**2)
    seen = {(a, b): c for (a, b, _), c in zip(inputs.tolist(), targets.tolist(), strict=True)}
    assert seen == {(a, b): (a + b) % modulus for a in range(modulus) for b in range(modulus)}
    assert set(inputs[:, 2].tolist()) == {modulus}
    assert inputs.dtype == targets.dtype == torch.int64


def test_the_seed_decides_the_split_and_the_global_generator_stays() -> None:
    before = torch.get_rng_state()
    first, again, other = (modular_addition(11, 0.5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first.tensors()[k], again.tensors()[k]) for k in first.tensors())
    assert not torch.equal(first.train_inputs, other.train_inputs)
    more = modular_addition(11, 0.7, seed=1)
    assert torch.equal(more.train_inputs[: len(first.train_inputs)], first.train_inputs)


def test_card_describes_the_tensors() -> None:
    sums = modular_addition(7, 0.3, seed=5)
    card = json.loads(json.dumps(sums.card))
    assert card["vocabulary"] == 8
    assert card["train"]["inputs"] == [15, 3]
    assert sum(card["test"]["classes"].values()) == 34
    assert card["seed"] == 5


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.1, 0.001, 0.999, float("nan")])
def test_refuses_fractions_that_leave_a_set_empty(fraction: float) -> None:
    with pytest.raises(DataError, match="train_fraction"):
        modular_addition(7, fraction, seed=0)


@pytest.mark.parametrize("modulus", [1, 0, -3])
def test_refuses_a_modulus_below_two(modulus: int) -> None:
    with pytest.raises(DataError, match="modulus must be at least 2"):
        modular_addition(modulus, 0.5, seed=0)
