"""Training through what torch.func refuses, or what hides a change from derivatives.

The oracle is a training loop of its own with labels moved to either side.
"""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional

from telescope_core.errors import ModelError, TrainingMismatchError
from telescope_core.lens import TelescopeLens

ROWS, WIDTH, OUTPUTS = 8, 5, 2


class OldSwish(torch.autograd.Function):
    """A function as it was written before there were transforms."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return g * s * (1 + x * (1 - s))


class Net(nn.Module):
    """Batch statistics and dropout around one thing that resists."""

    def __init__(self, resists):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 6), nn.Linear(6, OUTPUTS)
        if resists == "weight norm":
            self.last = nn.utils.parametrizations.weight_norm(self.last)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("mean", torch.zeros(6))
        self.resists = resists

    def forward(self, x):
        x = self.norm(self.first(x))
        if self.resists == "custom function":
            x = OldSwish.apply(x)
        elif self.resists == "checkpoint":
            x = torch.utils.checkpoint.checkpoint(self.dropped, x, use_reentrant=False)
        elif self.resists == "random slopes":
            x = functional.rrelu(x, training=self.training)
        elif self.resists == "hard sigmoid":
            x = x * functional.hardsigmoid(x)
        elif self.resists == "distances":
            x = x + torch.cdist(x, self.first.weight.T).mean(dim=1, keepdim=True)
        elif self.resists == "grid":
            images = x.reshape(-1, 1, 2, 3)
            grid = functional.affine_grid(torch.eye(2, 3).to(x).expand(len(x), 2, 3), images.shape)
            x = functional.grid_sample(images, grid).flatten(1)
        elif self.resists == "depth" and self.training and random.random() < 0.2:
            x = torch.zeros_like(x)
        if self.training:
            self.move(x)
        return self.last(functional.dropout(torch.tanh(x), 0.2, self.training))

    def dropped(self, x):
        return functional.dropout(torch.tanh(x), 0.3, self.training)

    def move(self, x):
        if self.resists == "data":
            self.mean.data.mul_(0.7).add_(0.3 * x.data.mean(dim=0))


def data():
    generator = torch.Generator().manual_seed(2)
    x, y, test = (
        torch.randn(n, width, generator=generator, dtype=torch.float64)
        for n, width in ((ROWS, WIDTH), (ROWS, OUTPUTS), (3, WIDTH))
    )
    return x, y, test


def loss(f, y):
    return 0.5 * (f - y).square().sum() / len(f)


def train(resists, shift=None, steps=6, model=None, **options):
    x, y, test = data()
    y = y if shift is None else y + shift
    torch.manual_seed(1)
    model = (model or Net(resists)).double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    lens = TelescopeLens(model, optimizer, loss, x, y, {"test": test}, **options)
    torch.manual_seed(5)
    random.seed(5)
    for step in range(steps):
        index = (torch.arange(4) + 3 * step) % ROWS
        with lens.step(index):
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()
    return lens


RESIST = [
    *("custom function", "checkpoint", "random slopes", "hard sigmoid", "distances", "grid"),
    *("weight norm", "data", "depth"),
]


@pytest.mark.parametrize("resists", RESIST)
@pytest.mark.filterwarnings("ignore:Default grid_sample")
def test_it_is_the_derivative_of_the_run(resists):
    v = torch.randn(ROWS, OUTPUTS, generator=torch.Generator().manual_seed(8)).double()
    ends = [train(resists, s * 1e-5 * v, probes=None).predictions("test") for s in (1, -1)]
    expected = (ends[0] - ends[1]) / 2e-5
    lens = train(resists, probes="exact", curvature="full", stride=1)
    S = lens.smoother("test", reading="end-to-end")
    assert (torch.einsum("xkny,ny->xk", S, v) - expected).norm() < 1e-5 * expected.norm()


def test_a_function_of_ones_own_behind_a_detach_is_refused():
    class Hidden(Net):
        def forward(self, x):
            hidden = OldSwish.apply(self.first(x)).detach().mean() if self.training else 0
            return super().forward(x) + hidden

    with pytest.raises(ModelError, match="depend on the parameters by value"):
        train(None, model=Hidden("none"), probes=3)


def test_rows_of_a_table_that_shorten_in_training_are_refused_with_probes_only():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.last = nn.Embedding(6, 3, max_norm=1.0), nn.Linear(3, OUTPUTS)

        def forward(self, x):
            return self.last(self.rows((x[:, :2].abs() * 3).long() % 6).sum(dim=1))

    model = Table()
    before = model.double().rows.weight.detach().clone()
    lens = train(None, model=model, probes=None, steps=0)
    lens.snapshot()
    assert torch.equal(model.rows.weight, before)
    with pytest.raises(TrainingMismatchError, match=r"rows.weight moved outside"):
        train(None, model=Table(), probes=3)
