"""Multi-layer perceptrons of any depth, plain or residual, that train at more than 100 layers."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError

DeepActivation = Literal["tanh", "relu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}


class DeepNetwork(nn.Module):
    """A stem, ``depth`` hidden layers of equal width, and a linear readout; depth + 2 layers.

    With φ the activation, h the stem's φ(W x + b) and L the depth, a hidden layer computes

    - plain: ``h ← φ(W h + b)``;
    - residual: ``h ← h + s φ(W h + b)`` with ``s = 1/√L``.

    Weights of the stem and of the hidden layers are orthogonal with the gain of the activation
    (1 for tanh, √2 for ReLU), all biases are 0, and the readout has torch's default weights.  For
    the plain network that is the critical initialisation, close to a dynamical isometry
    (Pennington, Schoenholz and Ganguli 2017), at which signals and gradients neither explode nor
    vanish exponentially with depth.  For the residual one the factor s keeps the growth of both
    bounded for any depth (Hayou et al. 2021, "Stable ResNet").

    Args:
        inputs: Features d of a row.
        outputs: Number of outputs k.
        width: Units of every hidden layer.
        depth: Hidden layers L between stem and readout.
        residual: Whether hidden layers are residual branches.
        activation: ``tanh`` or ``relu``.
        seed: Seed of the initialisation.  The global generator is as it was afterwards.

    Raises:
        ConfigurationError: A size is below one, or the activation is unknown.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int,
        depth: int,
        residual: bool,
        activation: DeepActivation = "tanh",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(inputs, outputs, width, depth) < 1:
            raise ConfigurationError(
                "a deep network needs inputs, outputs, width and depth of at least 1, got "
                f"inputs={inputs}, outputs={outputs}, width={width}, depth={depth}"
            )
        if activation not in _ACTIVATIONS:
            raise ConfigurationError(
                f"unknown activation {activation!r}, expected one of {', '.join(_ACTIVATIONS)}"
            )
        self.residual = residual
        self.branch_scale = 1.0 / math.sqrt(depth)
        self.activation = _ACTIVATIONS[activation]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Linear(inputs, width)
            self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
            self.head = nn.Linear(width, outputs)
            gain = math.sqrt(2.0) if activation == "relu" else 1.0
            for layer in (self.stem, *self.hidden):
                assert isinstance(layer, nn.Linear)
                nn.init.orthogonal_(layer.weight, gain)
                nn.init.zeros_(layer.bias)
            nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (rows, d) to outputs (rows, k)."""
        h: Tensor = self.activation(self.stem(inputs))
        for layer in self.hidden:
            branch = self.activation(layer(h))
            h = h + self.branch_scale * branch if self.residual else branch
        outputs: Tensor = self.head(h)
        return outputs
