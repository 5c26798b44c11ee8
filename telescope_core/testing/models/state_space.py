"""State-space models, and networks that are solvers: fixed steps of an equation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from telescope_core.testing.models.entry import ZooModel, real


class _DiagonalScan(nn.Module):
    # h_t = a h_{t−1} + b u_t with 0 < a < 1, y = c·h, and a direct term.
    def __init__(self) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.linspace(-1, 1, 3))
        self.enter, self.leave = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
        self.direct = nn.Parameter(torch.ones(2))

    def forward(self, u: Tensor) -> Tensor:
        decay = torch.exp(-torch.exp(self.log_rate))
        h = u.new_zeros(len(u), 3)
        for step in u.unbind(1):
            h = decay * h + self.enter(step)
        return self.leave(h) + self.direct * u[:, -1]


class _ComplexState(nn.Module):
    # A complex diagonal state (S4D), its parameters kept as real and imaginary parts.
    def __init__(self) -> None:
        super().__init__()
        self.log_real = nn.Parameter(torch.full((3,), -0.7))
        self.imaginary = nn.Parameter(torch.arange(3.0))
        self.c = nn.Parameter(torch.randn(2, 3, 2) / 2)
        self.log_step = nn.Parameter(torch.tensor(-1.0))

    def forward(self, u: Tensor) -> Tensor:
        step = torch.exp(self.log_step)
        rate = torch.complex(-torch.exp(self.log_real), self.imaginary)
        steps = torch.arange(u.shape[1], dtype=u.dtype).flip(0)
        kernel = torch.exp(rate * step * steps[:, None])  # (steps, states)
        state = u.to(kernel.dtype) @ kernel * step
        return (state @ torch.view_as_complex(self.c).T).real


class _Selective(nn.Module):
    # Mamba: decay and input are read from the sequence itself.
    def __init__(self) -> None:
        super().__init__()
        self.select, self.head = nn.Linear(2, 5), nn.Linear(2, 2)
        self.log_rate = nn.Parameter(torch.zeros(2, 2))

    def forward(self, u: Tensor) -> Tensor:
        step, b, c = self.select(u).split([1, 2, 2], dim=-1)
        step = nn.functional.softplus(step)
        h, y = u.new_zeros(len(u), 2, 2), u.new_zeros(len(u), 2)
        for t in range(u.shape[1]):
            decay = torch.exp(-step[:, t, :, None] * torch.exp(self.log_rate))
            h = decay * h + step[:, t, :, None] * u[:, t, :, None] * b[:, t, None]
            y = (h * c[:, t, None]).sum(-1)
        return self.head(y)


class _EulerFlow(nn.Module):
    # A neural ODE with fixed steps; the time is an input of the field.
    def __init__(self, *, fourth_order: bool) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        self.head = nn.Linear(3, 2)
        self.fourth_order = fourth_order

    def _slope(self, x: Tensor, time: float) -> Tensor:
        return self.field(torch.cat([x, torch.full_like(x[:, :1], time)], dim=1))

    def forward(self, x: Tensor) -> Tensor:
        h = 0.5
        for n in range(2):
            k1 = self._slope(x, n * h)
            if self.fourth_order:
                k2 = self._slope(x + h / 2 * k1, (n + 0.5) * h)
                k3 = self._slope(x + h / 2 * k2, (n + 0.5) * h)
                k4 = self._slope(x + h * k3, (n + 1) * h)
                k1 = (k1 + 2 * k2 + 2 * k3 + k4) / 6
            x = x + h * k1
        return self.head(x)


class _FixedPoint(nn.Module):
    # Deep equilibrium by a fixed number of iterations, differentiated through.
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.enter = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.enter(x), x.new_zeros(len(x), 3)
        for _ in range(5):
            z = torch.tanh(0.5 * self.inner(z) + u)
        return self.head(z)


class _LinearAttention(nn.Module):
    # Attention without softmax, as sums that are carried from step to step.
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(2, 9, bias=False), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
        memory = torch.einsum("nti,ntj->ntij", k, v).cumsum(1)
        mixed = torch.einsum("nti,ntij->ntj", q, memory) / (q * k.cumsum(1)).sum(-1, keepdim=True)
        return self.head(mixed[:, -1])[:, 0]


_sequence = real(4, 2)
MODELS = (
    ZooModel("state-space-scan", _DiagonalScan, _sequence, (2,)),
    ZooModel("state-space-complex", _ComplexState, real(5), (2,)),
    ZooModel("state-space-selective", _Selective, real(3, 2), (2,)),
    ZooModel("ode-euler", lambda: _EulerFlow(fourth_order=False), real(3), (2,)),
    ZooModel("ode-runge-kutta", lambda: _EulerFlow(fourth_order=True), real(3), (2,)),
    ZooModel("fixed-point", _FixedPoint, real(3), (2,)),
    ZooModel("linear-attention", _LinearAttention, _sequence, ()),
)
