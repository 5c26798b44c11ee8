"""Networks on sets and on graphs with dense adjacency, one graph or set a row."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from telescope_core.testing.models.entry import ZooModel, real


class _GraphConvolution(nn.Module):
    # Features are mixed along the normalised adjacency; the graph's nodes are averaged.
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 4), nn.Linear(4, 2, bias=False)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        degree = adjacency.sum(-1).rsqrt()
        along = degree[..., None] * adjacency * degree[:, None]
        h = torch.relu(along @ self.first(nodes))
        return (along @ self.second(h)).mean(1)


class _GraphAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(2, 3, bias=False)
        self.sender, self.receiver = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))
        self.head = nn.Linear(3, 2)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        h = self.features(nodes)
        scores = (h @ self.receiver)[:, :, None] + (h @ self.sender)[:, None]
        scores = functional.leaky_relu(scores, 0.2).masked_fill(adjacency == 0, float("-inf"))
        return self.head(functional.elu(torch.softmax(scores, dim=-1) @ h).sum(1))


class _Messages(nn.Module):
    # A network on the features of both ends of every edge; nodes are updated by a GRU cell.
    def __init__(self) -> None:
        super().__init__()
        self.message = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
        self.update, self.head = nn.GRUCell(3, 2), nn.Linear(2, 1)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        rows, count, width = nodes.shape
        pairs = torch.cat(
            [nodes[:, :, None].expand(-1, -1, count, -1), nodes[:, None].expand(-1, count, -1, -1)],
            dim=-1,
        )
        received = (adjacency[..., None] * self.message(pairs)).sum(2)
        h = self.update(received.reshape(-1, 3), nodes.reshape(-1, width))
        return self.head(h.reshape(rows, count, width).sum(1))[:, 0]


class _NodeOutputs(nn.Module):
    # One prediction a node: outputs (rows, nodes).
    def __init__(self) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(2, 3), nn.Linear(2, 3, bias=False)
        self.epsilon = nn.Parameter(torch.tensor(0.0))
        self.head = nn.Linear(3, 1)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        h = torch.tanh((1 + self.epsilon) * self.own(nodes) + adjacency @ self.other(nodes))
        return self.head(h)[..., 0]


class _DeepSets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.element = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
        self.whole = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.whole(self.element(x).sum(1))


class _PointCloud(nn.Module):
    # Shared layers as convolutions of width one, and a maximum over points.
    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(2, 4, 1), nn.ELU(), nn.Conv1d(4, 3, 1))
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x.transpose(1, 2)).amax(-1))


def _graphs(rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    nodes = torch.randn(rows, 3, 2, generator=generator, dtype=torch.float64)
    edges = (torch.rand(rows, 3, 3, generator=generator, dtype=torch.float64) > 0.5).double()
    return nodes, torch.maximum((edges + edges.mT).clamp(max=1), torch.eye(3, dtype=torch.float64))


MODELS = (
    ZooModel("graph-convolution", _GraphConvolution, _graphs, (2,)),
    ZooModel("graph-attention", _GraphAttention, _graphs, (2,)),
    ZooModel("graph-messages", _Messages, _graphs, ()),
    ZooModel("graph-nodes", _NodeOutputs, _graphs, (3,)),
    ZooModel("deep-sets", _DeepSets, real(3, 2), (2,)),
    ZooModel("point-cloud", _PointCloud, real(4, 2), (2,)),
)
