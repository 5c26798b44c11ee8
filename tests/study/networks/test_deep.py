"""Deep networks compute their formula and keep signals and gradients at more than 100 layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from telescope_core import TelescopeLens
from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.networks.deep import DeepNetwork


def _draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("activation", "function"), [("tanh", torch.tanh), ("relu", torch.relu)])
def test_output_is_the_formula(residual: bool, activation: str, function: object) -> None:
    model = DeepNetwork(
        5,
        2,
        width=4,
        depth=3,
        residual=residual,
        activation=activation,  # type: ignore[arg-type]
        seed=1,
    ).double()
    with torch.no_grad():
        for layer in (model.stem, *model.hidden, model.head):
            layer.bias.uniform_(-1, 1)
    x = _draw(6, 5)
    h = function(x @ model.stem.weight.T + model.stem.bias)  # type: ignore[operator]
    for layer in model.hidden:
        branch = function(h @ layer.weight.T + layer.bias)  # type: ignore[operator]
        h = h + branch / math.sqrt(3) if residual else branch
    torch.testing.assert_close(model(x), h @ model.head.weight.T + model.head.bias)


def test_depth_counts_hidden_layers() -> None:
    model = DeepNetwork(5, 1, width=4, depth=100, residual=True)
    assert sum(isinstance(m, nn.Linear) for m in model.modules()) == 102
    assert sum(p.numel() for p in model.parameters()) == 5 * 4 + 4 + 100 * (16 + 4) + 4 + 1


@pytest.mark.parametrize(("activation", "gain"), [("tanh", 1.0), ("relu", math.sqrt(2.0))])
def test_weights_are_orthogonal_and_biases_zero(activation: str, gain: float) -> None:
    model = DeepNetwork(
        8,
        1,
        width=8,
        depth=3,
        residual=False,
        activation=activation,  # type: ignore[arg-type]
    )
    for layer in (model.stem, *model.hidden):
        torch.testing.assert_close(layer.weight @ layer.weight.T, gain**2 * torch.eye(8))
        assert not layer.bias.any()
    assert not model.head.bias.any()


def _gradient_sizes(model: nn.Module) -> list[float]:
    """Norms of the output's gradient by the weights of the first and the last hidden layer."""
    model.double()(_draw(20, 32)).sum().backward()
    layers = list(model.hidden)  # type: ignore[arg-type]
    return [float(layer.weight.grad.norm()) for layer in (layers[0], layers[-1])]


@pytest.mark.parametrize("residual", [False, True])
def test_gradients_reach_the_first_of_128_layers(residual: bool) -> None:
    options = {"width": 32, "depth": 128, "residual": residual}
    first, last = _gradient_sizes(DeepNetwork(32, 1, **options, seed=3))  # type: ignore[arg-type]
    assert 1 / 20 < first / last < 20
    # The same network with the weights of torch's default initialisation: a plain one loses them.
    spoilt = DeepNetwork(32, 1, **options, seed=3)  # type: ignore[arg-type]
    for layer in spoilt.hidden:
        layer.reset_parameters()
    first, last = _gradient_sizes(spoilt)
    assert (first / last < 1e-6) is not residual


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        DeepNetwork(6, 1, width=5, depth=3, residual=False, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.hidden[0].weight, other.hidden[0].weight)


@pytest.mark.parametrize("depth", [0, -1])
def test_refuses_impossible_sizes(depth: int) -> None:
    with pytest.raises(ConfigurationError, match=f"at least 1, got .*depth={depth}"):
        DeepNetwork(3, 1, width=4, depth=depth, residual=False)


def test_refuses_an_unknown_activation() -> None:
    with pytest.raises(ConfigurationError, match="'step', expected one of tanh, relu"):
        DeepNetwork(3, 1, width=4, depth=2, residual=False, activation="step")  # type: ignore[arg-type]


@pytest.mark.parametrize("residual", [False, True])
def test_halving_the_step_divides_the_error_of_order_q_by_2_to_the_q_plus_1(residual: bool) -> None:
    """One step of 102 layers: the first neglected term of either order, seen in its size."""
    errors = {}
    x, y = 0.3 * _draw(10, 6), torch.ones(10, dtype=torch.float64)
    for order in (1, 2):
        for rate in (2e-3, 1e-3):
            model = DeepNetwork(6, 1, width=5, depth=100, residual=residual, seed=2).double()
            optimizer = torch.optim.SGD(model.parameters(), rate)

            def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
                return 0.5 * (outputs.squeeze(-1) - targets).square().mean()

            lens = TelescopeLens(model, optimizer, loss, x, y, order=order, stride=1, probes=None)
            index = torch.arange(10)
            with lens.step(index):
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()
            gap = lens.predictions("train") - lens.telescoped("train")
            errors[order, rate] = float(gap.abs().mean())
        ratio = errors[order, 2e-3] / errors[order, 1e-3]
        assert ratio == pytest.approx(2 ** (order + 1), rel=0.15)
    assert errors[2, 1e-3] < errors[1, 1e-3]
