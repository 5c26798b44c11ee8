"""Multi-layer perceptron, initialised from its own seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError

Activation = Literal["relu", "tanh", "gelu", "silu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    """Linear layers with one activation between them and none after the last.

    Args:
        sizes: Widths from input to output, e.g. ``(64, 200, 200, 1)``.
        activation: One of ``relu``, ``tanh``, ``gelu``, ``silu``.
        seed: Seed of the initialisation (torch's default for ``nn.Linear``). The global generator
            is as it was afterwards.

    Raises:
        ConfigurationError: Fewer than two sizes, a size below one, or an unknown activation.
    """

    def __init__(
        self, sizes: Sequence[int], *, activation: Activation = "relu", seed: int = 0
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ConfigurationError(
                f"an MLP needs at least two sizes, each at least 1, got {list(sizes)}"
            )
        if activation not in _ACTIVATIONS:
            raise ConfigurationError(
                f"unknown activation {activation!r}, expected one of {', '.join(_ACTIVATIONS)}"
            )
        modules: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for fan_in, fan_out in itertools.pairwise(sizes):
                modules += [nn.Linear(fan_in, fan_out), _ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*modules[:-1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (rows, sizes[0]) to outputs (rows, sizes[-1])."""
        outputs: Tensor = self.layers(inputs)
        return outputs


def with_output(network: nn.Module, output: str) -> nn.Module:
    """The network as it is for ``linear``, or with a sigmoid after it for ``sigmoid``."""
    return nn.Sequential(network, nn.Sigmoid()) if output == "sigmoid" else network
