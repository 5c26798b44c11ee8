"""The plain models that most short runs are made of: every shape of outputs, every common layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import Draw, ZooModel, real, tokens
from telescope_core.testing.models.sequences import LastState


class _RandomFeatures(nn.Module):
    # Linear in its parameters, with outputs (n,) if ``outputs`` is 0 and (n, outputs) else.
    def __init__(self, outputs: int = 0) -> None:
        super().__init__()
        self.projection: Tensor
        self.register_buffer("projection", torch.randn(4, 9))
        self.readout = nn.Linear(9, max(outputs, 1))
        self.squeeze = outputs == 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.readout(torch.tanh(x @ self.projection))
        return y[:, 0] if self.squeeze else y


class _Perceptron(nn.Module):
    # Two hidden layers; outputs (n,) if ``outputs`` is 0 and (n, outputs) else.
    def __init__(self, outputs: int = 0, *, sigmoid: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5)
        self.third = nn.Linear(5, max(outputs, 1))
        self.squeeze, self.sigmoid = outputs == 0, sigmoid

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(functional.gelu(self.second(torch.tanh(self.first(x)))))
        y = torch.sigmoid(y) if self.sigmoid else y
        return y[:, 0] if self.squeeze else y


class _Tied(nn.Module):
    # One linear layer used twice, and its weight used once more transposed.
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.readout = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        return self.readout(h @ self.shared.weight)


class _Attention(nn.Module):
    # One block of self-attention over short token sequences.
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.project = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)
        self.readout = nn.Linear(4, 3)

    def forward(self, indices: Tensor) -> Tensor:
        h = self.embedding(indices)
        query, key, value = self.project(self.norm(h)).chunk(3, dim=-1)
        weights = torch.softmax(query @ key.transpose(-2, -1) / 2.0, dim=-1)
        return self.readout((h + weights @ value).mean(dim=1))


class _BidirectionalGRU(LastState):
    # One output, (n,).
    def __init__(self) -> None:
        super().__init__(nn.GRU(2, 3, batch_first=True, bidirectional=True), 1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


def _convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, kernel_size=2, stride=2),
        nn.LayerNorm([3, 2, 2]),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 2),
    )


def _plain(
    name: str, build: Callable[[], nn.Module], draw: Draw, output_shape: tuple[int, ...]
) -> ZooModel:
    """A model whose parameters are drawn in single precision and widened, as by ``double()``."""

    def widened() -> nn.Module:
        torch.set_default_dtype(torch.float32)  # The zoo puts it back.
        return build().double()

    return ZooModel(name, widened, draw, output_shape)


_x = real(4)
MODELS = (
    _plain("random-features", _RandomFeatures, _x, ()),
    _plain("random-features-3", lambda: _RandomFeatures(3), _x, (3,)),
    _plain("mlp-vector", _Perceptron, _x, ()),
    _plain("mlp-column", lambda: _Perceptron(1), _x, (1,)),
    _plain("mlp-outputs", lambda: _Perceptron(3), _x, (3,)),
    _plain("sigmoid", lambda: _Perceptron(sigmoid=True), _x, ()),
    _plain("tied", _Tied, _x, (2,)),
    _plain("convolution", _convolution, real(1, 4, 4), (2,)),
    _plain("attention", _Attention, tokens(7, 5), (3,)),
    _plain("gru", _BidirectionalGRU, real(4, 2), ()),
)
