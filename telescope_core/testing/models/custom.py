"""Derivatives of the user's own making: checkpoints, forces, custom functions, solvers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from telescope_core.errors import ModelError
from telescope_core.testing.models.entry import Refusal, ZooModel, real


class _Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool | None) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x))
        if self.reentrant is not None and torch.is_grad_enabled():
            h = checkpoint(self.block, h, use_reentrant=self.reentrant)
        else:
            h = self.block(h)
        return self.head(h)


class _Forces(nn.Module):
    # Minus the gradient of a learned energy with respect to positions, two particles in the plane.
    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, positions: Tensor) -> Tensor:
        with torch.enable_grad():
            x = positions.detach().clone().requires_grad_()
            distance = (x[:, 0] - x[:, 1]).square().sum(-1, keepdim=True)
            (gradient,) = torch.autograd.grad(self.energy(distance).sum(), x, create_graph=True)
        return -gradient


class _Swish(torch.autograd.Function):
    # Keeps the input alone for the backward pass, as EfficientNet's memory-saving activation.
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradients[0] * (s * (1 + x * (1 - s)))


class _MemorySaving(nn.Module):
    def __init__(self, *, custom: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.custom = custom

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = _Swish.apply(h) if self.custom else h * torch.sigmoid(h)  # type: ignore[no-untyped-call]
        return self.second(h)


class _Spectral(nn.Module):
    # Fourier neural operator: real weights on the lowest frequencies of the row.
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)
        kept = spectrum[:, :2] * torch.complex(self.weight[0], self.weight[1])
        return self.head(torch.tanh(torch.fft.irfft(kept, n=4)))


class _Solves(nn.Module):
    # The solution of a linear system with a learned positive definite matrix (implicit layer).
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(3, 3) / 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.factor @ self.factor.T + torch.eye(3, dtype=x.dtype)
        return self.head(torch.tanh(torch.linalg.solve(matrix, x.T).T))


class _Detached(nn.Module):
    # Stop-gradient on one of two branches: the derivative that training sees leaves it out.
    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen = nn.Linear(3, 4), nn.Linear(3, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = torch.sigmoid(self.frozen(x))
        return self.head(gate * torch.tanh(self.first(x)))


_x = real(3)
# Its backward pass cannot be asked for the gradient of some tensors alone.
_REENTRANT = Refusal((ModelError,), "checkpoint")
MODELS = (
    ZooModel(
        "checkpoint",
        lambda: _Checkpointed(reentrant=False),
        _x,
        (2,),
        reference=lambda: _Checkpointed(reentrant=None),
    ),
    ZooModel(
        "checkpoint-reentrant",
        lambda: _Checkpointed(reentrant=True),
        _x,
        (2,),
        refused=_REENTRANT,
        refused_without_probes=_REENTRANT,
    ),
    ZooModel("forces", _Forces, real(2, 2), (2, 2)),
    ZooModel(
        "custom-function",
        lambda: _MemorySaving(custom=True),
        _x,
        (2,),
        reference=lambda: _MemorySaving(custom=False),
    ),
    ZooModel("fourier-operator", _Spectral, real(4), (2,)),
    ZooModel("linear-solve", _Solves, _x, (2,)),
    ZooModel("frozen-branch", _Detached, _x, (2,)),
)
