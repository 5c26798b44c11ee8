"""A standard small convolutional network without normalisation layers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.errors import ConfigurationError


class ConvolutionalNetwork(nn.Module):
    """Stages of a 3x3 convolution, ReLU and 2x2 max pooling, then one linear layer.

    Images keep their size in a convolution (padding 1) and lose half of it, rounded down, in every
    pooling; the last stage's values are flattened for the linear layer.

    Args:
        channels: Channels of the images.
        side: Height and width of the images in pixels.
        outputs: Number of outputs k, before any softmax.
        widths: Channels of each stage.
        seed: Seed of the initialisation (torch's default for both kinds of layer).  The global
            generator is as it was afterwards.

    Raises:
        ConfigurationError: A size is below one, there is no stage, or the images are too small to
            be halved once a stage.
    """

    def __init__(
        self,
        channels: int,
        side: int,
        outputs: int,
        *,
        widths: Sequence[int] = (16, 32),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not widths or min(channels, side, outputs, *widths) < 1:
            raise ConfigurationError(
                "a convolutional network needs channels, side, outputs and at least one width, "
                f"each at least 1; got channels={channels}, side={side}, outputs={outputs}, "
                f"widths={list(widths)}"
            )
        left = side >> len(widths)
        if left < 1:
            raise ConfigurationError(
                f"images of side {side} cannot be halved {len(widths)} times; expected at most "
                f"{side.bit_length() - 1} widths, or larger images"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.convolutions = nn.ModuleList(
                nn.Conv2d(fan_in, fan_out, 3, padding=1)
                for fan_in, fan_out in itertools.pairwise((channels, *widths))
            )
            self.head = nn.Linear(widths[-1] * left * left, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (rows, channels, side, side) to outputs (rows, k)."""
        h = inputs
        for convolution in self.convolutions:
            h = functional.max_pool2d(torch.relu(convolution(h)), 2)
        outputs: Tensor = self.head(h.flatten(1))
        return outputs
