"""Parameters and modules that are used more than once, or known under more than one name."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import ZooModel, real, several, tokens


class _TiedLanguageModel(nn.Module):
    # The head's weight is the embedding's.
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, indices: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embedding(indices).mean(1))))


class _WeightOfAnotherLayer(nn.Module):
    # The second layer runs as a layer, and once more through its weight alone; it starts at zero.
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.head = nn.Linear(3, 2)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.b(torch.tanh(self.a(x))))
        return self.head(functional.linear(h, self.b.weight))


class _TransposedDecoder(nn.Module):
    # An autoencoder with tied weights: decoded with the encoder's weight, transposed.
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.tanh(self.encoder(x)), self.encoder.weight.T, self.bias)


class _RegisteredTwice(nn.Module):
    # The encoder is an attribute for readers, and the first part of what runs.
    def __init__(self, *, both: bool) -> None:
        super().__init__()
        encoder = nn.Linear(3, 3)
        self.enc = encoder
        self.net = nn.Sequential(encoder, nn.Tanh(), nn.Linear(3, 2))
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        return self.net(torch.tanh(self.enc(x)) if self.both else x)


class _ParameterTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        weight = nn.Parameter(torch.randn(3, 3) / 2)
        self.query, self.key = weight, weight
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(x @ self.query) @ self.key.T
        return self.head(h)


class _ParametersInAList(nn.Module):
    # Registered by name, and read from a plain list: replacing the attribute changes nothing.
    def __init__(self) -> None:
        super().__init__()
        self.scales = [nn.Parameter(torch.randn(3)) for _ in range(2)]
        for number, scale in enumerate(self.scales):
            self.register_parameter(f"scale{number}", scale)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        for scale in self.scales:
            x = torch.tanh(scale * x)
        return self.head(x)


class _ModulesInADict(nn.Module):
    # Looked up by key in a plain dict; registered under attribute names as well.
    def __init__(self) -> None:
        super().__init__()
        self.by_key = {"left": nn.Linear(2, 3), "right": nn.Linear(2, 3)}
        for key, module in self.by_key.items():
            self.add_module(f"branch_{key}", module)
        self.weights = {"bias": nn.Parameter(torch.zeros(2))}
        self.register_parameter("bias", self.weights["bias"])
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.by_key["left"](x[:, :2])) * self.by_key["right"](x[:, 1:])
        return self.head(h) + self.weights["bias"]


class _Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        self.head = nn.Linear(3, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.encoder(left) - self.encoder(right)) ** 2)[:, 0]


class _OneLayerThrice(nn.Module):
    # One block for all depths, as in ALBERT and universal transformers.
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for _ in range(3):
            h = h + torch.tanh(self.block(self.norm(h)))
        return self.head(h)


class _FrozenTarget(nn.Module):
    # An online network and its frozen copy, as in self-distillation.
    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.online(x) - self.target(x)


_x = real(3)
MODELS = (
    ZooModel("tied-embedding", _TiedLanguageModel, tokens(5, 3), (5,)),
    ZooModel("weight-of-another-layer", _WeightOfAnotherLayer, _x, (2,)),
    ZooModel("transposed-decoder", _TransposedDecoder, _x, (3,)),
    ZooModel("registered-twice", lambda: _RegisteredTwice(both=False), _x, (2,)),
    ZooModel("registered-and-used-twice", lambda: _RegisteredTwice(both=True), _x, (2,)),
    ZooModel("parameter-twice", _ParameterTwice, _x, (2,)),
    ZooModel("parameters-in-a-list", _ParametersInAList, _x, (2,)),
    ZooModel("modules-in-a-dict", _ModulesInADict, _x, (2,)),
    ZooModel("siamese", _Siamese, several(_x, _x), ()),
    ZooModel("one-layer-thrice", _OneLayerThrice, _x, (2,)),
    ZooModel("frozen-target", _FrozenTarget, _x, (2,)),
)
