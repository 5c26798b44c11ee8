"""Residual networks have the layers, sizes and initialisation they claim."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from telescope_core import TelescopeLens
from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.networks.resnet import ResidualBlock, ResidualNetwork


def test_resnet20_has_twenty_layers_and_the_published_number_of_weights() -> None:
    model = ResidualNetwork(3, 10)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == 20
    weights = sum(layer.weight.numel() for layer in layers) + model.head.bias.numel()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    # 0.27M in table 6 of He et al. (2016); counted: 16-32-64 channels, three blocks each.
    stage = [9 * 16 * 16 * 6, 9 * (16 * 32 + 5 * 32 * 32), 9 * (32 * 64 + 5 * 64 * 64)]
    assert weights == 9 * 3 * 16 + sum(stage) + 64 * 10 + 10
    assert sum(norm.num_features for norm in norms) == 16 + 6 * (16 + 32 + 64)
    assert sum(p.numel() for p in model.parameters()) == 269_722


def test_images_are_halved_twice_and_outputs_are_logits() -> None:
    shapes = []
    model = ResidualNetwork(3, 10, seed=1)
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, out: shapes.append(tuple(out.shape)))
    outputs = model(torch.randn(2, 3, 32, 32))
    assert shapes == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]
    assert outputs.shape == (2, 10)
    small = ResidualNetwork(1, 4, widths=(8, 16), blocks=1)
    assert small(torch.randn(3, 1, 8, 8)).shape == (3, 4)


def test_a_block_is_its_formula() -> None:
    block = ResidualBlock(2, 5, 2).double().eval()
    with torch.no_grad():
        for norm in (block.norm1, block.norm2):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
    x = torch.randn(3, 2, 7, 7, dtype=torch.float64)

    def normalised(norm: nn.BatchNorm2d, values: torch.Tensor) -> torch.Tensor:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return (values - norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + norm.bias.view(
            -1, 1, 1
        )

    hidden = normalised(
        block.norm1, functional.conv2d(x, block.conv1.weight, stride=2, padding=1)
    ).relu()
    hidden = normalised(block.norm2, functional.conv2d(hidden, block.conv2.weight, padding=1))
    expected = hidden.clone()
    expected[:, :2] += x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected.relu())


def test_convolutions_are_initialised_with_variance_two_over_fan_in() -> None:
    model = ResidualNetwork(3, 10, seed=3)
    weight = model.stages[2][1].conv1.weight
    assert float(weight.std().detach()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    bound = 1 / math.sqrt(64)
    assert float(model.head.weight.abs().max().detach()) <= bound


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (
        ResidualNetwork(1, 10, widths=(8, 16), blocks=1, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.stem.weight, other.stem.weight)


@pytest.mark.parametrize(
    "options", [{"widths": ()}, {"widths": (8, 4)}, {"blocks": 0}, {"widths": (0, 4)}]
)
def test_refuses_impossible_sizes(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="widths that do not decrease"):
        ResidualNetwork(1, 10, **options)  # type: ignore[arg-type]


def test_the_lens_follows_a_residual_network_in_eval_mode() -> None:
    """The shortcut and BatchNorm with running statistics: f is smooth in theta where ReLU is."""
    model = ResidualNetwork(1, 2, widths=(3, 4), blocks=1, seed=0).double().eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 1, 5, 5, dtype=torch.float64, generator=generator)
    y = torch.arange(12) % 2
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    plain = copy.deepcopy(model)
    plain_optimizer = torch.optim.SGD(plain.parameters(), 1e-4)
    lens = TelescopeLens(
        model,
        optimizer,
        functional.cross_entropy,
        x,
        y,
        {"test": x[:4] + 0.1},
        probes=None,
        stride=2,
    )
    for _ in range(4):
        index = torch.arange(12)
        with lens.step(index):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
        plain_optimizer.zero_grad()
        functional.cross_entropy(plain(x), y).backward()
        plain_optimizer.step()
    for watched, unwatched in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(watched, unwatched)
    moved = (lens.predictions("test") - plain(x[:4] + 0.1)).abs().max()
    assert float(moved.detach()) == 0.0
    assert lens.snapshot().to_record()["test/approximation_error"] < 1e-6
