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
        y: Tensor = self.head(h)
        return y


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
        inner: Tensor = gradients[0] * (s * (1 + x * (1 - s)))
        return inner


class _MemorySaving(nn.Module):
    def __init__(self, *, custom: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.custom = custom

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = _Swish.apply(h) if self.custom else h * torch.sigmoid(h)  # type: ignore[no-untyped-call]
        y: Tensor = self.second(h)
        return y


class _Spectral(nn.Module):
    # Fourier neural operator: real weights on the lowest frequencies of the row.
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(x)
        kept = spectrum[:, :2] * torch.complex(self.weight[0], self.weight[1])
        y: Tensor = self.head(torch.tanh(torch.fft.irfft(kept, n=4)))
        return y


class _Solves(nn.Module):
    # The solution of a linear system with a learned positive definite matrix (implicit layer).
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(3, 3) / 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.factor @ self.factor.T + torch.eye(3, dtype=x.dtype)
        y: Tensor = self.head(torch.tanh(torch.linalg.solve(matrix, x.T).T))
        return y


class _Detached(nn.Module):
    # Stop-gradient on one of two branches: the derivative that training sees leaves it out.
    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen = nn.Linear(3, 4), nn.Linear(3, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = torch.sigmoid(self.frozen(x))
        y: Tensor = self.head(gate * torch.tanh(self.first(x)))
        return y


_x = real(3)
# Its backward pass cannot be asked for the gradient of some tensors alone.
_REENTRANT = Refusal((ModelError,), "checkpoint")
MODELS = (
    ZooModel(
        name="checkpoint",
        build=lambda: _Checkpointed(reentrant=False),
        reference=lambda: _Checkpointed(reentrant=None),
        draw=_x,
        output_shape=(2,),
    ),
    ZooModel(
        name="checkpoint-reentrant",
        build=lambda: _Checkpointed(reentrant=True),
        draw=_x,
        output_shape=(2,),
        refused=_REENTRANT,
        refused_without_probes=_REENTRANT,
    ),
    ZooModel(
        name="forces",
        build=_Forces,
        draw=real(2, 2),
        output_shape=(2, 2),
    ),
    ZooModel(
        name="custom-function",
        build=lambda: _MemorySaving(custom=True),
        reference=lambda: _MemorySaving(custom=False),
        draw=_x,
        output_shape=(2,),
    ),
    ZooModel(name="fourier-operator", build=_Spectral, draw=real(4), output_shape=(2,)),
    ZooModel(name="linear-solve", build=_Solves, draw=_x, output_shape=(2,)),
    ZooModel(name="frozen-branch", build=_Detached, draw=_x, output_shape=(2,)),
)
