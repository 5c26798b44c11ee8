"""The convolutional network has the layers it claims, and the lens reads them one by one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from telescope_core import TelescopeLens
from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.networks.convolutional import ConvolutionalNetwork


def _images(rows: int, channels: int, side: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, channels, side, side, dtype=torch.float64, generator=generator)


def test_output_is_the_formula() -> None:
    model = ConvolutionalNetwork(2, 7, 4, widths=(3, 5), seed=1).double()
    x = _images(6, 2, 7)
    first, second = model.convolutions
    h = x
    for layer in (first, second):
        # A 3x3 convolution as a matrix product over patches.
        patches = functional.unfold(h, 3, padding=1)
        z = layer.weight.flatten(1) @ patches + layer.bias[:, None]
        z = z.view(6, -1, *h.shape[2:]).clamp(min=0)
        side = z.shape[-1] // 2
        z = z[..., : 2 * side, : 2 * side].reshape(6, -1, side, 2, side, 2)
        h = z.amax(dim=(3, 5))
    assert h.shape == (6, 5, 1, 1)
    expected = h.flatten(1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected)


def test_sizes_follow_the_images() -> None:
    model = ConvolutionalNetwork(3, 32, 10, widths=(16, 32, 64))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert model.head.in_features == 64 * 4 * 4


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (ConvolutionalNetwork(1, 8, 10, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.convolutions[0].weight, other.convolutions[0].weight)


@pytest.mark.parametrize("options", [{"widths": ()}, {"widths": (0, 4)}, {"outputs": 0}])
def test_refuses_impossible_sizes(options: dict[str, object]) -> None:
    sizes = {"channels": 1, "side": 8, "outputs": 10} | options
    with pytest.raises(ConfigurationError, match="each at least 1; got channels=1"):
        ConvolutionalNetwork(**sizes)  # type: ignore[arg-type]


def test_refuses_images_that_are_too_small() -> None:
    ConvolutionalNetwork(1, 8, 10, widths=(2, 2, 2))
    with pytest.raises(ConfigurationError, match="at most 3 widths"):
        ConvolutionalNetwork(1, 8, 10, widths=(2, 2, 2, 2))


def test_shares_of_layers_after_one_step_are_those_of_their_kernels() -> None:
    """After one full-batch step S = γ Σ_l J_l J_lᵀ H with H the loss's mixed derivative."""
    model = ConvolutionalNetwork(1, 4, 3, widths=(2,), seed=5).double()
    x, y, rate = _images(5, 1, 4), torch.tensor([0, 1, 2, 0, 1]), 0.1
    parameters = dict(model.named_parameters())
    jacobians = torch.func.jacrev(lambda p: torch.func.functional_call(model, p, (x,)).flatten())(
        {name: p.detach() for name, p in parameters.items()}
    )
    by_layer: dict[str, torch.Tensor] = {}
    for name, block in jacobians.items():
        J = block.flatten(1)
        layer = name.rpartition(".")[0]
        by_layer[layer] = by_layer.get(layer, torch.zeros(15, 15).double()) + J @ J.T
    # Cross-entropy as a function of probabilities y: dg/dy = (p 1ᵀ − I) / n, row by row.
    p = torch.softmax(model(x).detach(), dim=1)
    blocks = [torch.eye(3).double() - row[:, None] @ torch.ones(1, 3).double() for row in p]
    H = torch.block_diag(*blocks) / 5
    parts = {layer: rate * kernel @ H for layer, kernel in by_layer.items()}
    S = sum(parts.values())
    optimizer = torch.optim.SGD(model.parameters(), rate)
    lens = TelescopeLens(
        model,
        optimizer,
        functional.cross_entropy,
        x,
        y,
        order=1,
        stride=1,
        probes="exact",
        layer_shares=True,
        strategy="parameter-space",
    )
    with lens.step(torch.arange(5)):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    shares = lens.logit_sensitivity_by_layer("train")
    assert list(shares) == ["convolutions.0", "head"]
    for layer, part in parts.items():
        # p(I) = n/|I| Σ ‖s‖² / k, with |I| = n.
        expected = float((part * S).sum()) / 3
        assert shares[layer] == pytest.approx(expected, rel=1e-9)
