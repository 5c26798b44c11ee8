"""Parts that only some rows reach: experts, heads by task, branches taken by the data."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from telescope_core.testing.models.entry import ZooModel, real


class _TopOne(nn.Module):
    # Each row goes to one expert, weighted by the router's probability (switch transformer).
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(3, 3)
        self.experts = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = torch.softmax(self.router(x), dim=-1).max(dim=-1)
        y = x.new_zeros(len(x), 2)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            if len(rows):
                y = y.index_add(0, rows, weight[rows, None] * torch.tanh(expert(x[rows])))
        return y


class _Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(3, 3)
        self.experts = nn.ModuleList(nn.Linear(3, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([torch.tanh(expert(x)) for expert in self.experts], dim=1)
        return (torch.softmax(self.gate(x), dim=-1)[..., None] * outputs).sum(1)


class _ByDomain(nn.Module):
    # The expert is fixed by the row's domain; the first three rows are all of domain 0.
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(3, 3)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        h = torch.tanh(self.shared(x))
        y = h.new_zeros(len(x))
        for number, expert in enumerate(self.experts):
            rows = (domain == number).nonzero()[:, 0]
            y = y.index_put((rows,), expert(h[rows])[:, 0])
        return y


class _HeadsByTask(nn.Module):
    # Rows sorted by task; every head runs on the rows of its own, and not at all without any.
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.heads = nn.ModuleDict({str(task): nn.Linear(4, 2) for task in range(3)})

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        y = h.new_zeros(len(x), 2)
        for number in sorted(set(task.tolist())):
            mask = task == number
            y[mask] = self.heads[str(number)](h[mask])
        return y


class _EarlyExit(nn.Module):
    # Rows that are sure of themselves skip the second stage.
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        unsure = x[:, 0] > 0.4
        if bool(unsure.any()):
            h = h.clone()
            h[unsure] = h[unsure] + torch.tanh(self.second(h[unsure]))
        return self.head(h)


class _WeightByTask(nn.Module):
    # One weight matrix for each task in one parameter, gathered by the row's task.
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 2) / 2)
        self.bias = nn.Embedding(3, 2)

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("ni,nio->no", x, self.weight[task]) + self.bias(task))


def _with_sorted_kinds(rows: int, generator: Generator) -> tuple[Tensor, Tensor]:
    # 0, 0, 0, 0, 1, 1, 2, 2 for eight rows; rows of a small set see few kinds.
    kinds = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]).repeat(1 + rows // 8)[:rows]
    return torch.randn(rows, 3, generator=generator, dtype=torch.float64), kinds


MODELS = (
    ZooModel("experts-top-one", _TopOne, real(3), (2,)),
    ZooModel("experts-mixture", _Mixture, real(3), (2,)),
    ZooModel("experts-by-domain", _ByDomain, _with_sorted_kinds, ()),
    ZooModel("heads-by-task", _HeadsByTask, _with_sorted_kinds, (2,)),
    ZooModel("weight-by-task", _WeightByTask, _with_sorted_kinds, (2,)),
    ZooModel("early-exit", _EarlyExit, real(3), (2,)),
)
