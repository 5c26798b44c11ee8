"""Modules that keep something between calls, which evaluating them must not change."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from telescope_core.testing.models.entry import ZooModel, real


class _Counts(nn.Module):
    # The number of calls, and of rows seen, in a plain attribute and in a buffer.
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += len(x)
        return self.body(x)


class _KeepsActivations(nn.Module):
    # The last activations with their graph, a history of norms, and a dict by layer.
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 1)
        self.last: Tensor | None = None
        self.norms: list[float] = []
        self.by_layer: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        self.last = h
        self.norms.append(float(h.detach().norm()))
        self.by_layer["first"] = h.detach()
        return self.second(h)[:, 0]


class _RunningMean(nn.Module):
    # A mean of activations for monitoring; the output does not read it.
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(4))
        self.replaced: Tensor
        self.register_buffer("replaced", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        with torch.no_grad():
            self.mean.lerp_(h.mean(0), 0.1)
            self.replaced = 0.9 * self.replaced + 0.1 * h.mean(0)  # A new tensor, not the old one.
        return self.second(h)


def _with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 5),
        nn.ReLU(inplace=True),
        nn.Dropout(0.4),
        nn.Linear(5, 4),
        nn.AlphaDropout(0.3),
        nn.Tanh(),
        nn.Linear(4, 2),
    ).eval()


def _norm_and_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)
    ).eval()


class _OwnGenerator(nn.Module):
    # Noise in training from a stream of its own.
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x + 0.1 * torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
        return self.body(x)


class _BuiltOnFirstUse(nn.Module):
    # Positions computed at the first call and kept, as rotary embeddings often are.
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 3), nn.Linear(3, 2)
        self._positions: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self._positions is None or len(self._positions) < x.shape[1]:
            self._positions = torch.linspace(0, 1, x.shape[1], dtype=x.dtype)[:, None]
        return self.head(torch.tanh(self.layer(x + self._positions)).mean(1))


_x = real(3)
MODELS = (
    ZooModel("counts-calls", _Counts, _x, (2,)),
    ZooModel("keeps-activations", _KeepsActivations, _x, ()),
    ZooModel("running-mean", _RunningMean, _x, (2,)),
    ZooModel("dropout-eval", _with_dropout, _x, (2,)),
    ZooModel("norm-and-dropout-eval", _norm_and_dropout, _x, (2,)),
    ZooModel("own-generator-eval", lambda: _OwnGenerator().eval(), _x, (2,)),
    ZooModel("built-on-first-use", _BuiltOnFirstUse, real(3, 2), (2,)),
)
