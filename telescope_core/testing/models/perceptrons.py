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
        return self.head(h)


class _LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.branch = nn.Sequential(nn.Linear(3, 5), nn.GELU(), nn.Linear(5, 3))
        self.gamma = nn.Parameter(torch.full((3,), 1e-5))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.gamma * self.branch(self.norm(x)))


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
        return x + self.second(h) * self.scale + self.bias3


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
        return self.body(x)[:, 0]


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
        return self.head(h)


class _Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) / self.temperature


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
        return self.gain * self.second(self.slope(self.first(x))) + self.offset


class _DenseConnections(nn.Module):
    # Every layer sees all that came before it, concatenated.
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3 + 2 * i, 2) for i in range(3))
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, torch.tanh(layer(x))], dim=-1)
        return self.head(x)


class _PartlyUnused(nn.Module):
    # A head for another task, and a parameter that nothing reads.
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other_head = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 5)
        self.spare = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.body(x)))


_x = real(3)
MODELS = (
    ZooModel("mlp-zero-head", _zero_head, _x, (2,)),
    ZooModel("rezero", _ReZero, _x, (2,)),
    ZooModel("layer-scale", _LayerScale, _x, (2,)),
    ZooModel("fixup", _fixup, _x, (2,)),
    ZooModel(
        "relu-in-place-first",
        lambda: _relu_first(inplace=True),
        _x,
        (2,),
        reference=lambda: _relu_first(inplace=False),
    ),
    ZooModel(
        "clamp-in-place-first",
        lambda: _ChangesItsInput(clamp=True, inplace=True),
        _x,
        (),
        reference=lambda: _ChangesItsInput(clamp=True, inplace=False),
    ),
    ZooModel(
        "add-in-place-first",
        lambda: _ChangesItsInput(clamp=False, inplace=True),
        _x,
        (),
        reference=lambda: _ChangesItsInput(clamp=False, inplace=False),
    ),
    ZooModel("in-place-inside", _InPlaceInside, _x, (2,)),
    ZooModel("temperature", _Temperature, _x, (3,)),
    ZooModel("logit-scale", _LogitScale, real(4), (2,)),
    ZooModel("one-entry-parameters", _OneEntryParameters, _x, (1,)),
    ZooModel("dense-connections", _DenseConnections, _x, (2,)),
    ZooModel("partly-unused", _PartlyUnused, _x, (2,)),
)
