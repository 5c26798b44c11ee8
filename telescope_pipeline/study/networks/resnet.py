"""Residual networks with BatchNorm: ResNet-20 for 32x32 images and a small one for 8x8 digits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.errors import ConfigurationError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut without parameters.

    Where the width grows or the image shrinks, the shortcut takes every ``stride``-th pixel and
    pads the new channels with zeros (option A of He et al. 2016, section 4.2).

    Args:
        channels: Channels of the input.
        width: Channels of the output, at least ``channels``.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self._stride = stride
        self._new_channels = width - channels

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (rows, channels, h, w) to (rows, width, ceil(h / stride), ceil(w / stride))."""
        shortcut = inputs
        if self._stride > 1:
            shortcut = shortcut[:, :, :: self._stride, :: self._stride]
        if self._new_channels:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self._new_channels))
        hidden = torch.relu(self.norm1(self.conv1(inputs)))
        return torch.relu(self.norm2(self.conv2(hidden)) + shortcut)


class ResidualNetwork(nn.Module):
    """The residual networks for small images of He et al. (2016), section 4.2.

    A 3x3 convolution, one stage of blocks per width (each after the first halves the image),
    global average pooling and a linear layer; ``2 * blocks * len(widths) + 2`` layers. The defaults
    are ResNet-20, the network of section 4.3 of arXiv 2411.00247.

    Args:
        channels: Channels of the images.
        outputs: Number of outputs k, before any softmax.
        widths: Channels of each stage, not decreasing.
        blocks: Residual blocks a stage.
        seed: Seed of the initialisation: normal with variance 2 / fan_in for the convolutions (He
            et al. 2015), torch's default for the last layer, the identity for BatchNorm. The global
            generator is as it was afterwards.

    Raises:
        ConfigurationError: A size is below one, or the widths decrease.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = (channels, outputs, blocks, *widths)
        if not widths or min(sizes) < 1 or list(widths) != sorted(widths):
            raise ConfigurationError(
                f"a residual network needs channels, outputs, blocks and at least one width, each "
                f"at least 1, and widths that do not decrease; got channels={channels}, "
                f"outputs={outputs}, blocks={blocks}, widths={list(widths)}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
            self.stem_norm = nn.BatchNorm2d(widths[0])
            stages = []
            before = widths[0]
            for number, width in enumerate(widths):
                stage = []
                for block in range(blocks):
                    stage.append(ResidualBlock(before, width, 2 if number and not block else 1))
                    before = width
                stages.append(nn.Sequential(*stage))
            self.stages = nn.Sequential(*stages)
            self.head = nn.Linear(before, outputs)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images (rows, channels, h, w) to outputs (rows, k)."""
        features = self.stages(torch.relu(self.stem_norm(self.stem(inputs))))
        outputs: Tensor = self.head(features.mean(dim=(2, 3)))
        return outputs
