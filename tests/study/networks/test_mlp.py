"""The MLP computes the textbook formula from its own seed."""

from __future__ import annotations

import pytest
import torch

from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.networks.mlp import MLP


def test_output_is_the_formula() -> None:
    model = MLP((5, 7, 3, 2), activation="tanh", seed=1).double()
    inputs = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second, third = (model.layers[i] for i in (0, 2, 4))
    hidden = torch.tanh(inputs @ first.weight.T + first.bias)
    hidden = torch.tanh(hidden @ second.weight.T + second.bias)
    torch.testing.assert_close(model(inputs), hidden @ third.weight.T + third.bias)


def test_no_activation_after_the_last_layer() -> None:
    model = MLP((3, 4, 1), seed=0)
    outputs = model(10 * torch.randn(200, 3, generator=torch.Generator().manual_seed(0)))
    assert outputs.shape == (200, 1)
    with torch.no_grad():
        model.layers[2].bias.fill_(-100.0)
    assert float(model(torch.zeros(1, 3)).detach()) < 0


def test_initialisation_is_torch_s_default_under_the_seed() -> None:
    model = MLP((6, 5, 1), seed=42)
    state = torch.get_rng_state()
    torch.manual_seed(42)
    layers = [torch.nn.Linear(6, 5), torch.nn.Linear(5, 1)]
    torch.set_rng_state(state)
    for mine, plain in zip((model.layers[0], model.layers[2]), layers, strict=True):
        assert torch.equal(mine.weight, plain.weight)
        assert torch.equal(mine.bias, plain.bias)


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    MLP((6, 5, 1), seed=42)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0, 1)])
def test_refuses_impossible_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError, match="sizes, each at least 1"):
        MLP(sizes)


def test_refuses_an_unknown_activation() -> None:
    with pytest.raises(ConfigurationError, match="'step', expected one of relu"):
        MLP((2, 2, 1), activation="step")  # type: ignore[arg-type]
