"""Buffers that training moves: by differentiable rules, by nearest entries, by value, from outside.

Where the change depends on θ with a derivative, that is followed (against retraining); otherwise
the buffer is named.
"""

import copy

import pytest
import torch
from torch import nn

from telescope_core.errors import ModelError, RefusalWarning
from telescope_core.lens import TelescopeLens

ROWS, WIDTH = 12, 3


class CodeBook(nn.Module):
    """Codes that follow the mean of what is nearest to them, a queue of codes, and a counter."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(WIDTH, 2), nn.Linear(2, 1)
        self.register_buffer("codes", torch.randn(3, 2))
        self.register_buffer("counts", torch.ones(3))
        self.register_buffer("queue", torch.zeros(6, 2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        z = torch.tanh(self.encode(x))
        nearest = torch.cdist(z, self.codes).argmin(dim=1)
        taken = nn.functional.one_hot(nearest, 3).to(z)
        code = taken @ self.codes
        if self.training:
            with torch.no_grad():
                self.counts.mul_(0.8).add_(taken.sum(dim=0), alpha=0.2)
                means = taken.T @ z / taken.sum(dim=0).clamp(min=1)[:, None]
                self.codes.lerp_(means, 0.2)
                self.queue.copy_(torch.cat([z, self.queue])[: len(self.queue)])
                self.calls += 1
        mixed = z + code + 0.3 * self.queue.mean(dim=0)
        return self.decode(mixed) * (1 + 0.1 * torch.log1p(self.calls))


class Plain(nn.Module):
    """A running mean that is subtracted."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(WIDTH, 4), nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        z = torch.tanh(self.encode(x))
        if self.training:
            self.move(z)
        return self.decode(z - self.mean)

    def move(self, z):
        self.mean = 0.7 * self.mean + 0.3 * z.mean(dim=0).detach()


class ByData(Plain):
    def move(self, z):
        self.mean.data.mul_(0.7).add_(0.3 * z.data.mean(dim=0))


class ByItem(Plain):
    def move(self, z):
        self.mean.mul_(0.7).add_(0.3 * z.detach().mean().item())


class Scaled(Plain):
    def forward(self, x):
        outputs = super().forward(x)
        return outputs * (1 + outputs.square().mean().item()) if self.training else outputs


class FromOutside(Plain):
    """Nothing moves in a pass."""

    def __init__(self):
        super().__init__()
        self.teacher = nn.Linear(WIDTH, 4).requires_grad_(False)

    def forward(self, x):
        return super().forward(x) + self.teacher(x).mean(dim=1, keepdim=True)

    def move(self, z):
        pass


def moves_mean(model):
    model.mean.add_(0.01 * model.encode.bias.detach().sum())


def moves_teacher(model):
    for slow, fast in zip(model.teacher.parameters(), model.encode.parameters(), strict=True):
        slow.data.lerp_(fast.data, 0.1)


def squared(f, y):
    return 0.5 * (f - y).square().sum() / len(f)


def train(kind, *, shift=None, steps=5, after=lambda model: None, **options):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    y = torch.rand(ROWS, 1, generator=generator, dtype=torch.float64)
    y = y if shift is None else y + shift
    torch.manual_seed(1)
    model = kind().double().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    lens = None
    if shift is None:
        # One row is a batch of its own: nearest entries are found in evaluation, too.
        sets = {"test": x[:4] + 0.1}
        lens = TelescopeLens(model, optimizer, squared, x, y, sets, probes="exact", **options)
    for _ in range(steps):
        index = torch.randperm(ROWS, generator=generator)[:4]

        def step(index=index):
            optimizer.zero_grad()
            squared(model(x[index]), y[index]).backward()
            optimizer.step()

        if lens is None:
            step()
        else:
            with lens.step(index):
                step()
        after(model)
    with torch.no_grad():
        return lens, copy.deepcopy(model).eval()(x[:4] + 0.1)


def gap_to_retraining(kind):
    lens, _ = train(kind, curvature="full", stride=1)
    direction = torch.randn(ROWS, 1, generator=torch.Generator().manual_seed(3)).double()
    ends = [train(kind, shift=sign * 1e-5 * direction)[1] for sign in (1, -1)]
    expected = (ends[0] - ends[1])[:, 0] / 2e-5
    S = lens.smoother("test", reading="end-to-end") @ direction[:, 0]
    return lens, float((S - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", [CodeBook, Plain, ByData])
def test_differentiable_changes_are_followed_and_none_is_named(kind):
    lens, gap = gap_to_retraining(kind)
    assert gap < 1e-5
    assert lens.unfollowed == ()


def test_what_is_written_by_value_is_named():
    with pytest.warns(RefusalWarning, match="mean moved where no derivative follows"):
        lens, gap = gap_to_retraining(ByItem)
    assert gap > 1e-3
    assert lens.unfollowed == ("mean",)


@pytest.mark.parametrize(
    ("after", "names"),
    [(moves_mean, ("mean",)), (moves_teacher, ("teacher.bias", "teacher.weight"))],
)
def test_what_moves_outside_of_the_pass_is_named(after, names):
    with pytest.warns(RefusalWarning, match=f"{', '.join(names)} moved where no derivative"):
        lens, _ = train(FromOutside, after=after, strategy="replayed")
    assert lens.unfollowed == names


def test_outputs_that_depend_on_values_are_refused():
    with pytest.raises(ModelError, match=r"depend on the parameters by value \(\.item\(\)"):
        train(Scaled)
