"""Convolutional networks of every kind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import ZooModel, real


def _conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool1d(2),
        nn.Conv1d(3, 2, 2, dilation=2, padding=1, padding_mode="circular"),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
    )


def _conv2d() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding="valid"),
        nn.Tanh(),
        nn.AvgPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(3, 2),
    )


def _conv3d() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 2, 2), nn.GELU(), nn.Conv3d(2, 2, 2, bias=False), nn.Flatten(), nn.Linear(2, 2)
    )


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 4, 2, groups=2),
        nn.SiLU(),
        nn.Conv2d(4, 2, 2, dilation=1, padding=1, padding_mode="reflect"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def _depthwise_separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, padding=1),
        nn.ReLU6(),
        nn.Conv2d(4, 2, 1),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )


def _transposed() -> nn.Module:
    # A decoder from a code to an image, outputs (rows, 1, 3, 3).
    return nn.Sequential(
        nn.Linear(3, 4),
        nn.Unflatten(1, (1, 2, 2)),
        nn.ELU(),
        nn.ConvTranspose2d(1, 2, 2, stride=2, padding=1),
        nn.Tanh(),
        nn.ConvTranspose2d(2, 1, 2),
    )


def _pixel_shuffle() -> nn.Module:
    # Super-resolution: outputs twice as high and wide.
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.Conv2d(2, 4, 1), nn.PixelShuffle(2))


class _SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 2)
        self.squeeze, self.excite = nn.Linear(3, 2), nn.Linear(2, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolution(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(h.mean((2, 3))))))
        return self.head((h * gate[..., None, None]).relu().mean((2, 3)))


class _Residual(nn.Module):
    # The main path starts as the identity: the last norm's weight is 0.
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.first, self.second = (
            nn.Conv2d(2, 2, 3, padding=1, bias=False),
            nn.Conv2d(2, 2, 3, padding=1, bias=False),
        )
        self.norm1, self.norm2 = nn.GroupNorm(1, 2), nn.GroupNorm(2, 2)
        nn.init.zeros_(self.norm2.weight)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h = self.norm2(self.second(functional.relu(self.norm1(self.first(x)), inplace=True)))
        h += x
        return self.head(functional.relu(h, inplace=True).mean((2, 3)))


class _UNet(nn.Module):
    # Down, up by interpolation, and across: outputs like the input.
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 1)
        self.up = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        across = torch.tanh(self.down(x))
        h = torch.tanh(self.middle(functional.max_pool2d(across, 2)))
        h = functional.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
        return self.up(torch.cat([h, across], dim=1))


class _FunctionalConvolution(nn.Module):
    # Causal filters kept as a bare parameter, standardised before use.
    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Parameter(torch.randn(3, 2, 2))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        filters = self.filters - self.filters.mean((1, 2), keepdim=True)
        filters = filters / filters.square().mean((1, 2), keepdim=True).add(1e-3).sqrt()
        h = functional.conv1d(functional.pad(x, (1, 0)), filters)
        return self.head(torch.tanh(h).amax(-1))


class _Patches(nn.Module):
    # A convolution written as a linear layer on unfolded patches.
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Linear(4, 3), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, 2).transpose(1, 2)
        return self.head(torch.relu(self.patch(patches)).flatten(1))


_image = real(1, 3, 3)
MODELS = (
    ZooModel("conv1d", _conv1d, real(2, 6), (2,)),
    ZooModel("conv2d", _conv2d, real(1, 5, 5), (2,)),
    ZooModel("conv3d", _conv3d, real(1, 3, 3, 3), (2,)),
    ZooModel("conv-grouped", _grouped, real(4, 3, 3), (2,)),
    ZooModel("conv-depthwise", _depthwise_separable, real(2, 3, 3), (2,)),
    ZooModel("conv-transposed", _transposed, real(3), (1, 3, 3)),
    ZooModel("pixel-shuffle", _pixel_shuffle, real(1, 1, 2), (1, 2, 4)),
    ZooModel("squeeze-excite", _SqueezeExcite, _image, (2,)),
    ZooModel("conv-residual", _Residual, _image, (2,)),
    ZooModel("u-net", _UNet, real(1, 2, 4), (1, 2, 4)),
    ZooModel("conv-functional", _FunctionalConvolution, real(2, 4), (2,)),
    ZooModel("conv-unfolded", _Patches, _image, (2,)),
)
