"""The polynomial regression problem is the one of the equations."""

from __future__ import annotations

import json

import pytest
import torch

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.polynomial import draw_polynomial


def test_targets_are_half_the_squared_projection() -> None:
    problem = draw_polynomial(dimension=7, train_size=40, test_size=30, seed=3)
    beta = problem.extras["beta"].double()
    for inputs, targets in (
        (problem.train_inputs, problem.train_targets),
        (problem.test_inputs, problem.test_targets),
    ):
        expected = [0.5 * float(x.double() @ beta) ** 2 for x in inputs]
        torch.testing.assert_close(targets.double(), torch.tensor(expected).double())


def test_features_have_variance_one_over_d_and_beta_variance_one() -> None:
    problem = draw_polynomial(dimension=400, train_size=500, test_size=500, seed=0)
    inputs = torch.cat([problem.train_inputs, problem.test_inputs]).double()
    # 400,000 features: the variance is known to 0.3 %.
    assert float(inputs.var() * 400) == pytest.approx(1.0, abs=0.01)
    assert float(inputs.mean()) == pytest.approx(0.0, abs=5 / 400 / 1000**0.5)
    # 400 entries: the standard error of a variance is sqrt(2/400) = 0.07.
    assert float(problem.extras["beta"].var()) == pytest.approx(1.0, abs=0.3)


def test_train_and_test_points_differ_and_follow_the_seed() -> None:
    first, again, other = (draw_polynomial(5, 20, 20, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(first.tensors()[k], again.tensors()[k]) for k in first.tensors())
    assert not torch.equal(first.train_inputs, other.train_inputs)
    assert not torch.equal(first.train_inputs, first.test_inputs)


def test_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    draw_polynomial(5, 20, 20, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_card_describes_the_tensors() -> None:
    problem = draw_polynomial(dimension=6, train_size=11, test_size=4, seed=8)
    card = json.loads(json.dumps(problem.card))
    assert card["train"]["inputs"] == [11, 6]
    assert card["test"]["targets"] == [4]
    assert card["seed"] == 8
    assert card["train"]["target_mean"] == pytest.approx(
        float(problem.train_targets.double().mean()), abs=1e-6
    )
    assert {tensor.dtype for tensor in problem.tensors().values()} == {torch.float32}
    assert {"source", "licence", "normalisation", "label_noise"} <= set(card)


@pytest.mark.parametrize("sizes", [(0, 5, 5), (5, 0, 5), (5, 5, 0)])
def test_refuses_empty_sizes(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(DataError, match="at least 1, got 0"):
        draw_polynomial(*sizes, seed=0)
