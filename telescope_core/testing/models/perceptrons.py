"""Perceptrons: parts that start at zero, operations in place, parameters of odd shapes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import ZooModel, real


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer with all its parameters at 0."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _zero_head() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU(), zeroed(_head(4)))


def _head(width: int) -> nn.Linear:
    return nn.Linear(width, 2)


class _ReZero(nn.Module):
    # ReZero: every branch behind a 0-dimensional gate that starts at 0.
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.branches = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.gates = nn.ParameterList(nn.Parameter(torch.tensor(0.0)) for _ in range(2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for gate, branch in zip(self.gates, self.branches, strict=True):
            h = h + gate * torch.tanh(branch(h))
        y: Tensor = self.head(h)
        return y


class _LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.branch = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 3))
        self.gamma = nn.Parameter(torch.full((3,), 1e-5))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(x + self.gamma * self.branch(self.norm(x)))
        return y


class _FixupBlock(nn.Module):
    # Scalar biases and multipliers of shape (1,); the last layer of the branch starts at 0.
    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias1, self.bias2, self.bias3 = (nn.Parameter(torch.zeros(1)) for _ in range(3))
        self.scale = nn.Parameter(torch.ones(1))
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x + self.bias1) + self.bias2)
        y: Tensor = x + self.second(h) * self.scale + self.bias3
        return y


def _fixup() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), _FixupBlock(4), _FixupBlock(4), zeroed(_head(4)))


def _relu_first(*, inplace: bool) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(inplace=inplace), nn.Linear(3, 4), nn.ReLU(inplace=inplace), nn.Linear(4, 2)
    )


class _ChangesItsInput(nn.Module):
    # Preprocessing in place, as written for arrays that nobody else holds.
    def __init__(self, *, clamp: bool, inplace: bool) -> None:
        super().__init__()
        self.clamp, self.inplace = clamp, inplace
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.inplace else x.clone()
        x = x.clamp_(-0.8, 0.8) if self.clamp else x.add_(0.5).mul_(0.7)
        y: Tensor = self.body(x)
        return y[:, 0]


class _InPlaceInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.shift = nn.Parameter(torch.randn(4))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h += self.shift
        h.tanh_()
        h = self.second(h)
        functional.leaky_relu_(h)
        h = h * 1.5
        h[:, 0] = 0.3
        y: Tensor = self.head(h)
        return y


class _Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) / self.temperature
        return y


class _LogitScale(nn.Module):
    # Cosine similarity with class prototypes under a learned scale, as in CLIP.
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)
        self.prototypes = nn.Parameter(torch.randn(2, 3))
        self.logit_scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        h = functional.normalize(self.encoder(x), dim=-1)
        return self.logit_scale.exp() * h @ functional.normalize(self.prototypes, dim=-1).T


class _OneEntryParameters(nn.Module):
    # Power-law activation with its own exponent, gain and offset, each of shape (1,).
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 1, bias=False)
        self.slope = nn.PReLU()
        self.gain, self.offset = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gain * self.second(self.slope(self.first(x))) + self.offset
        return y


class _DenseConnections(nn.Module):
    # Every layer sees all that came before it, concatenated.
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3 + 2 * i, 2) for i in range(3))
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.tanh(layer(x))], dim=-1)
        y: Tensor = self.head(x)
        return y


class _PartlyUnused(nn.Module):
    # A head for another task, and a parameter that nothing reads.
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other_head = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.sigmoid(self.body(x)))
        return y


_x = real(3)
MODELS = (
    ZooModel(name="mlp-zero-head", build=_zero_head, draw=_x, output_shape=(2,)),
    ZooModel(name="rezero", build=_ReZero, draw=_x, output_shape=(2,)),
    ZooModel(name="layer-scale", build=_LayerScale, draw=_x, output_shape=(2,)),
    ZooModel(name="fixup", build=_fixup, draw=_x, output_shape=(2,)),
    ZooModel(
        name="relu-in-place-first",
        build=lambda: _relu_first(inplace=True),
        reference=lambda: _relu_first(inplace=False),
        draw=_x,
        output_shape=(2,),
    ),
    ZooModel(
        name="clamp-in-place-first",
        build=lambda: _ChangesItsInput(clamp=True, inplace=True),
        reference=lambda: _ChangesItsInput(clamp=True, inplace=False),
        draw=_x,
        output_shape=(),
    ),
    ZooModel(
        name="add-in-place-first",
        build=lambda: _ChangesItsInput(clamp=False, inplace=True),
        reference=lambda: _ChangesItsInput(clamp=False, inplace=False),
        draw=_x,
        output_shape=(),
    ),
    ZooModel(name="in-place-inside", build=_InPlaceInside, draw=_x, output_shape=(2,)),
    ZooModel(name="temperature", build=_Temperature, draw=_x, output_shape=(3,)),
    ZooModel(name="logit-scale", build=_LogitScale, draw=real(4), output_shape=(2,)),
    ZooModel(name="one-entry-parameters", build=_OneEntryParameters, draw=_x, output_shape=(1,)),
    ZooModel(name="dense-connections", build=_DenseConnections, draw=_x, output_shape=(2,)),
    ZooModel(name="partly-unused", build=_PartlyUnused, draw=_x, output_shape=(2,)),
)
