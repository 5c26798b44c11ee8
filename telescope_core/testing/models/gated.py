"""Networks whose parts multiply each other: gates, products of features, generated weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import ZooModel, real, several


class _Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.carry = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.change = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        for layer in self.carry:
            assert isinstance(layer, nn.Linear)
            nn.init.constant_(layer.bias, -2.0)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for carry, change in zip(self.carry, self.change, strict=True):
            gate = torch.sigmoid(carry(x))
            x = gate * torch.relu(change(x)) + (1 - gate) * x
        return self.head(x)


class _SwiGLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(4)
        self.gate_and_up = nn.Linear(4, 6, bias=False)
        self.down = nn.Linear(3, 4, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_and_up(self.norm(x)).chunk(2, dim=-1)
        return self.head(x + self.down(functional.silu(gate) * up))


class _SpatialGate(nn.Module):
    # gMLP: half of the channels are gated by a mixture over positions, which starts at 1.
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.gate_norm = nn.LayerNorm(2), nn.LayerNorm(2)
        self.expand, self.contract = nn.Linear(2, 4), nn.Linear(2, 2)
        self.mix = nn.Conv1d(3, 3, 1)
        nn.init.zeros_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.ones_(self.mix.bias)
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        u, v = functional.gelu(self.expand(self.norm(x))).chunk(2, dim=-1)
        h = x + self.contract(u * self.mix(self.gate_norm(v)))
        return self.head(h.mean(1))


class _Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(3), nn.LayerNorm(3)
        self.positions = nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 4))
        self.channels = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 3))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.positions(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class _Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Bilinear(3, 2, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head(torch.tanh(self.product(left, right)))


class _HyperNetwork(nn.Module):
    # A network that writes the weights of the one that reads the row.
    def __init__(self) -> None:
        super().__init__()
        self.writer = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3 * 2 + 2))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        written = self.writer(context)
        weight, bias = written[:, :6].reshape(-1, 2, 3), written[:, 6:]
        return torch.einsum("noi,ni->no", weight, x) + bias


class _FiLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.modulate = nn.Linear(3, 4), nn.Linear(2, 8)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulate(context).chunk(2, dim=-1)
        return self.head(torch.relu((1 + scale) * self.features(x) + shift))[:, 0]


class _MaxOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pieces = nn.Linear(3, 3 * 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pieces(x).unflatten(-1, (4, 3)).amax(-1))


_two = several(real(3), real(2))
MODELS = (
    ZooModel("highway", _Highway, real(3), (2,)),
    ZooModel("swiglu", _SwiGLU, real(4), (2,)),
    ZooModel("gmlp", _SpatialGate, real(3, 2), (2,)),
    ZooModel("mlp-mixer", _Mixer, real(4, 3), (2,)),
    ZooModel("bilinear", _Bilinear, _two, (2,)),
    ZooModel("hypernetwork", _HyperNetwork, _two, (2,)),
    ZooModel("film", _FiLM, _two, ()),
    ZooModel("maxout", _MaxOut, real(3), (2,)),
)
