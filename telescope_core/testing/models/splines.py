"""Networks of basis functions: splines, waves, bumps and powers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import ZooModel, real


class _SplineLayer(nn.Module):
    # A spline on every edge and a smooth base (Kolmogorov-Arnold network), on a fixed grid.
    def __init__(self, inputs: int, outputs: int, intervals: int = 3, degree: int = 2) -> None:
        super().__init__()
        step = 4.0 / intervals
        self.degree = degree
        self.grid: Tensor
        self.register_buffer(
            "grid", torch.arange(-degree, intervals + degree + 1, dtype=torch.float64) * step - 2
        )
        self.base = nn.Parameter(torch.randn(outputs, inputs) / 2)
        self.spline = nn.Parameter(torch.randn(outputs, inputs, intervals + degree) / 4)

    def forward(self, x: Tensor) -> Tensor:
        along = torch.einsum("nib,oib->no", self._basis(x), self.spline)
        return functional.linear(functional.silu(x), self.base) + along

    def _basis(self, x: Tensor) -> Tensor:
        """B-splines by the recursion of Cox and de Boor, (rows, inputs, intervals + degree)."""
        x, grid = x[..., None], self.grid
        basis = ((x >= grid[:-1]) & (x < grid[1:])).to(x.dtype)
        for d in range(1, self.degree + 1):
            left = (x - grid[: -d - 1]) / (grid[d:-1] - grid[: -d - 1]) * basis[..., :-1]
            right = (grid[d + 1 :] - x) / (grid[d + 1 :] - grid[1:-d]) * basis[..., 1:]
            basis = left + right
        return basis


class _Interpolated(nn.Module):
    # An activation whose values at the nodes are learned, linear between them.
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.nodes = nn.Parameter(torch.linspace(-1, 1, 5).tanh())

    def forward(self, x: Tensor) -> Tensor:
        place = (self.first(x).clamp(-0.999, 0.999) + 1) * 2
        left = place.detach().floor().long()
        share = place - left
        h = (1 - share) * self.nodes[left] + share * self.nodes[left + 1]
        return self.head(h)


class _FourierFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.randn(2, 3))
        self.body = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        angles = 2 * torch.pi * x @ self.frequencies
        return self.body(torch.cat([angles.sin(), angles.cos()], dim=-1))[:, 0]


class _Sine(nn.Module):
    def __init__(self, inputs: int, outputs: int, frequency: float) -> None:
        super().__init__()
        self.linear, self.frequency = nn.Linear(inputs, outputs), frequency
        bound = 1 / inputs if frequency > 2 else (6 / inputs) ** 0.5 / frequency
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * self.linear(x))


class _RadialBasis(nn.Module):
    # Centres and log-widths are trained.
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(4, 3))
        self.log_widths = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        squares = (x[:, None] - self.centres).square().sum(-1)
        return self.head(torch.exp(-squares / 4 * torch.exp(-self.log_widths)))


class _Polynomial(nn.Module):
    # Linear in its parameters: all products of at most two inputs.
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.quadratic = nn.Parameter(torch.zeros(3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.linear(x)[:, 0] + torch.einsum("ni,ij,nj->n", x, self.quadratic, x)) / 3


_x = real(3)
MODELS = (
    ZooModel(
        "spline-network", lambda: nn.Sequential(_SplineLayer(3, 2), _SplineLayer(2, 2)), _x, (2,)
    ),
    ZooModel("learned-activation", _Interpolated, _x, (2,)),
    ZooModel("fourier-features", _FourierFeatures, real(2), ()),
    ZooModel(
        "siren",
        lambda: nn.Sequential(_Sine(2, 4, 3.0), _Sine(4, 4, 2.0), nn.Linear(4, 1)),
        real(2),
        (1,),
    ),
    ZooModel("radial-basis", _RadialBasis, _x, (2,)),
    ZooModel("polynomial-features", _Polynomial, _x, ()),
)
