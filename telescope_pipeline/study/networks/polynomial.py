"""The quadratic network of the grokking case study (after Kumar et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError


class PolynomialNetwork(nn.Module):
    r"""``f(x) = (1/h) \sum_j phi(theta_j . x)`` with ``phi(u) = u + (epsilon/2) u^2``.

    Only the hidden weights are trained. The output weights are the constant 1/h, so they are a mean
    and not a parameter. ``epsilon`` sets how far the network is from linear in its parameters: the
    smaller it is, the longer training stays in the regime of its initial tangent kernel.

    Args:
        dimension: Number of input features d.
        hidden: Number of hidden units h.
        epsilon: Strength of the quadratic term.
        seed: Seed of the standard normal initialisation. The global generator is left alone.

    Raises:
        ConfigurationError: A size is smaller than one.
    """

    def __init__(self, dimension: int, hidden: int, epsilon: float, *, seed: int = 0) -> None:
        super().__init__()
        if dimension < 1 or hidden < 1:
            raise ConfigurationError(
                f"dimension and hidden must be at least 1, got {dimension} and {hidden}"
            )
        self.epsilon = epsilon
        with torch.random.fork_rng(devices=[]):
            # The default initialisation of the layer draws from the global generator too.
            self.hidden = nn.Linear(dimension, hidden, bias=False)
        with torch.no_grad():
            self.hidden.weight.normal_(generator=torch.Generator().manual_seed(seed))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs (rows, d) to outputs (rows, 1)."""
        units: Tensor = self.hidden(inputs)
        activations = units + (0.5 * self.epsilon) * units.square()
        return activations.mean(dim=-1, keepdim=True)
