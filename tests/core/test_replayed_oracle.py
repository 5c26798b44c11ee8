"""Columns of parameters and buffers through training as it is run, against a dense account.

The account runs the passes themselves at shifted parameters and buffers.
"""

import pytest
import torch
from torch import nn

from telescope_core.lens import TelescopeLens
from telescope_core.testing import ReplayedOracle

ROWS, WIDTH, OUTPUTS = 8, 2, 2


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class Dropped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 4), nn.Linear(4, OUTPUTS)

    def forward(self, x):
        x = nn.functional.dropout(torch.tanh(self.first(x)), 0.3, self.training)
        return self.last(x)


class Normed(nn.Module):
    """Without a bias before the statistics: adaptive steps blow up roundings of its gradient."""

    def __init__(self, **options):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 3, bias=False), nn.Linear(3, OUTPUTS)
        self.norm = nn.BatchNorm1d(3, **options)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


class Free(Normed):
    def __init__(self):
        super().__init__(affine=False, momentum=None)


class Both(Normed):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.2, self.training))


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, 3))
        self.last = nn.Linear(3, OUTPUTS)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def squared(f, y):
    return 0.5 * (f - y).square().sum() / len(f)


def softened(f, y):
    return -(y * torch.log_softmax(f, dim=1)).sum() / len(f)


SGD = (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01})
NESTEROV = (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True})
ADAMW = (torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.1})
SETTINGS = {
    "dropout": (Dropped, SGD, squared, (1.0,)),
    "statistics": (Normed, ADAMW, squared, (1.0,)),
    "statistics-free": (Free, NESTEROV, softened, (1.0,)),
    "both-shifted": (Both, ADAMW, softened, (1.0,)),
    "spectral": (Spectral, SGD, squared, (1.0,)),
    "accumulated": (Both, NESTEROV, squared, (0.3, 0.7)),
}


def run(kind, optimizer, loss, shares, *, curvature, steps=3, stride=2):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, WIDTH, generator=generator)
    y = torch.rand(ROWS, OUTPUTS, generator=generator)
    torch.manual_seed(1)
    model = kind().train()
    cls, options = optimizer
    optimizer = cls(model.parameters(), **options)
    sets = {"test": torch.randn(3, WIDTH, generator=generator)}
    oracle = ReplayedOracle(
        model, optimizer, loss, y, sets, curvature=curvature == "full", stride=stride
    )
    lens = TelescopeLens(
        *(model, optimizer, loss, x, y, sets),
        probes="exact",
        stride=stride,
        curvature=curvature,
    )
    for _ in range(steps):
        index = torch.randperm(ROWS, generator=generator)[: 4 * len(shares)]
        with oracle.step(index, shares), lens.step(index):
            optimizer.zero_grad()
            for share, part in zip(shares, index.chunk(len(shares)), strict=True):
                rows = x[part] + 0.05 * torch.randn(len(part), WIDTH)
                oracle.see(rows)
                (share * loss(model(rows), y[part])).backward()
            optimizer.step()
    return oracle, lens


@pytest.mark.parametrize("curvature", ["gauss-newton", "full"])
@pytest.mark.parametrize("name", SETTINGS)
def test_columns_and_both_readings(name, curvature):
    oracle, lens = run(*SETTINGS[name], curvature=curvature)
    assert lens.strategy == "replayed"
    layout = lens._run.engines.problem.replay.linearizer.function.layout
    held = layout.unflatten(lens.state_dict()["tensors"]["engine/Z/current"])
    expected = oracle.columns()
    assert all(name in held or not columns.any() for name, columns in expected.items())
    for each, columns in held.items():
        assert_same(columns.reshape(expected[each].shape), expected[each])
    for reading, theirs in (("telescoped", oracle.telescoped), ("end-to-end", oracle.end_to_end)):
        assert_same(lens.smoother("test", reading=reading), theirs("test"))


def assert_same(actual, expected):
    assert (actual - expected).norm() < 1e-9 * expected.norm()
