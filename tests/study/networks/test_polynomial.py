"""The quadratic network computes its formula and trains the hidden weights only."""

from __future__ import annotations

import pytest
import torch

from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.networks.polynomial import PolynomialNetwork


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 1.5])
def test_output_is_the_formula(epsilon: float) -> None:
    model = PolynomialNetwork(4, 6, epsilon, seed=2).double()
    inputs = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(3, 1, dtype=torch.float64)
    for row, x in enumerate(inputs):
        for theta in model.hidden.weight:
            u = theta @ x
            expected[row, 0] += (u + epsilon / 2 * u**2) / 6
    torch.testing.assert_close(model(inputs), expected)


def test_only_the_hidden_weights_are_trained() -> None:
    model = PolynomialNetwork(4, 6, 0.2)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "hidden.weight": (6, 4)
    }


def test_weights_are_standard_normal_and_follow_the_seed() -> None:
    first, again, other = (PolynomialNetwork(100, 500, 0.2, seed=seed) for seed in (1, 1, 2))
    weights = first.hidden.weight.detach()
    # 50,000 entries: mean within 5 of its standard errors, variance likewise.
    assert float(weights.mean()) == pytest.approx(0, abs=5 / 50_000**0.5)
    assert float(weights.var()) == pytest.approx(1, abs=5 * (2 / 50_000) ** 0.5)
    assert torch.equal(weights, again.hidden.weight)
    assert not torch.equal(weights, other.hidden.weight)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    PolynomialNetwork(4, 6, 0.2, seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_refuses_empty_layers(sizes: tuple[int, int]) -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        PolynomialNetwork(*sizes, 0.2)
