"""Embeddings: padding, sparse gradients, bags, and factorisations of tables."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from telescope_core.testing.models.entry import ZooModel, several, tokens

# Only plain descent takes sparse gradients, without weight decay.
_SPARSE_RULES = ("sgd", "sgd-momentum")

# torch has no forward mode for it.


class _Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, padding_idx=0)
        self.head = nn.Linear(3, 2)

    def forward(self, indices: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(indices)).sum(1))


class _Words(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3, sparse=sparse)
        self.head = nn.Linear(3, 2)

    def forward(self, indices: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(indices).mean(1)))


class _Bag(nn.Module):
    def __init__(self, mode: str, *, sparse: bool = False) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(5, 3, mode=mode, sparse=sparse)
        self.head = nn.Linear(3, 2)

    def forward(self, indices: Tensor) -> Tensor:
        return self.head(torch.tanh(self.bag(indices)))


class _FactorisationMachine(nn.Module):
    # A bias of all, one of each feature, and products of the factors of all pairs of features.
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.linear, self.factors = nn.Embedding(6, 1), nn.Embedding(6, 3)

    def forward(self, features: Tensor) -> Tensor:
        v = self.factors(features)
        pairs = (v.sum(1) ** 2 - (v**2).sum(1)).sum(1) / 2
        return self.bias + self.linear(features).sum((1, 2)) + pairs


class _MatrixFactorisation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(4, 3), nn.Embedding(5, 3)
        self.user_bias, self.item_bias = nn.Embedding(4, 1), nn.Embedding(5, 1)
        nn.init.zeros_(self.user_bias.weight)
        nn.init.zeros_(self.item_bias.weight)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        product = (self.user(user) * self.item(item)).sum(-1)
        return product + self.user_bias(user)[:, 0] + self.item_bias(item)[:, 0]


class _RowsOfATable(nn.Module):
    # A table of features held as a bare parameter; a row's input is its position (node2vec).
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(8, 3))
        self.head = nn.Linear(3, 2)

    def forward(self, position: Tensor) -> Tensor:
        return self.head(torch.tanh(self.table[position]))


def _positions(rows: int, generator: Generator) -> Tensor:
    return torch.randperm(8, generator=generator)[:rows]


_words = tokens(5, 3)
MODELS = (
    ZooModel("embedding-padding", _Padded, _words, (2,)),
    ZooModel(
        "embedding-sparse",
        lambda: _Words(sparse=True),
        _words,
        (2,),
        reference=lambda: _Words(sparse=False),
        rules=_SPARSE_RULES,
    ),
    ZooModel("embedding-bag", lambda: _Bag("sum"), _words, (2,)),
    ZooModel(
        "embedding-bag-sparse",
        lambda: _Bag("mean", sparse=True),
        _words,
        (2,),
        reference=lambda: _Bag("mean"),
        rules=_SPARSE_RULES,
    ),
    ZooModel("factorisation-machine", _FactorisationMachine, tokens(6, 3), ()),
    ZooModel("matrix-factorisation", _MatrixFactorisation, several(tokens(4), tokens(5)), ()),
    ZooModel("rows-of-a-table", _RowsOfATable, _positions, (2,)),
)
