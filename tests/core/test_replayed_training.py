"""The smoother through training as it is run, against retraining with perturbed labels.

The oracle is a training loop of its own: the same seeds, order, masks, noise and shifts of the
inputs, with the labels moved along a direction by a small step to either side.
"""

import copy
import gc
import pickle
from contextlib import ExitStack, nullcontext

import pytest
import torch
from torch import nn

from telescope_core.errors import (
    ConfigurationError,
    ModelError,
    RefusalWarning,
    TrainingMismatchError,
)
from telescope_core.jacobians.training_pass import TrainingPass
from telescope_core.lens import TelescopeLens

ROWS, WIDTH, OUTPUTS, BATCH = 24, 5, 2, 8


class Everything(nn.Module):
    """Batch statistics, dropout in three forms, noise and a spectral norm."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, 8)
        self.norm = nn.BatchNorm1d(8)
        self.free = nn.BatchNorm1d(8, affine=False, momentum=None)
        self.second = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.drop = nn.AlphaDropout(0.2)
        self.last = nn.Linear(8, OUTPUTS)

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(x)))
        x = nn.functional.dropout(self.free(x), 0.2, self.training)
        if self.training:
            x = x + 0.1 * torch.randn_like(x)
        return self.last(self.drop(torch.tanh(self.second(x))))


class Images(nn.Module):
    """Convolutions with batch and instance statistics, and a stochastic depth."""

    def __init__(self):
        super().__init__()
        self.widen = nn.Linear(WIDTH, 16)
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.single = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
        self.last = nn.Linear(3, OUTPUTS)

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(self.widen(x).view(-1, 1, 4, 4))))
        keep = (torch.rand(len(x), 1, 1, 1) < 0.7).to(x) if self.training else 0.7
        x = x + keep * torch.tanh(self.single(self.second(x)))
        return self.last(nn.functional.dropout2d(x, 0.1, self.training).mean(dim=(2, 3)))


class Centred(nn.Module):
    """A stateful layer of one's own: a running mean by plain arithmetic, assigned anew."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, 8), nn.Linear(8, OUTPUTS)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        if self.training:
            self.mean = 0.7 * self.mean + 0.3 * x.mean(dim=0).detach()
        return self.last(x - self.mean)


class Attention(nn.Module):
    """Attention with dropout on its weights, in an encoder layer with dropout of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.last = nn.Linear(8, OUTPUTS)

    def forward(self, x):
        return self.last(self.layer(self.embed(x[..., None])).mean(dim=1))


def squared(f, y):
    return 0.5 * (f - y).square().sum() / len(f)


def cross_entropy(f, y):
    return -(y * torch.log_softmax(f, dim=1)).sum() / len(f)


SGD = (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01})
ADAMW = (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1})


def data():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.rand(ROWS, OUTPUTS, generator=generator, dtype=torch.float64)
    return inputs, targets, torch.randn(7, WIDTH, generator=generator, dtype=torch.float64)


class Run:
    """A training run; with a lens, followed."""

    def __init__(self, kind, optimizer=SGD, loss=squared, steps=9, accumulate=(1.0,), targets=None):
        self.x, self.y, self.test = data()
        self.y = self.y if targets is None else targets
        torch.manual_seed(1)
        self.model = kind().double().train()
        torch.manual_seed(5)
        cls, options = optimizer
        self.optimizer = cls(self.model.parameters(), **options)
        self.loss, self.steps, self.shares = loss, steps, accumulate
        self.lens = None

    def attach(self, **options):
        options = {"probes": "exact", "stride": 1, **options}
        sets = {"test": self.test}
        self.lens = TelescopeLens(
            self.model, self.optimizer, self.loss, self.x, self.y, sets, **options
        )
        return self

    def train(self, steps=None):
        generator = torch.Generator().manual_seed(3)
        for _ in range(steps or self.steps):
            index = torch.randperm(ROWS, generator=generator)[: BATCH * len(self.shares)]
            if self.lens is None:
                self._step(index)
            else:
                with self.lens.step(index):
                    self._step(index)
        return self

    def _step(self, index):
        self.optimizer.zero_grad()
        for share, part in zip(self.shares, index.chunk(len(self.shares)), strict=True):
            rows = self.x[part] + 0.05 * torch.randn(len(part), WIDTH, dtype=torch.float64)
            (share * self.loss(self.model(rows), self.y[part])).backward()
        self.optimizer.step()

    def predictions(self):
        self.model.eval()
        with torch.no_grad():
            outputs = self.model(self.test)
        self.model.train()
        return outputs


def retrained(direction, step=1e-5, of=Run, **options):
    """The derivative of the trained network's predictions along a direction of the labels."""
    y = data()[1]
    ends = [
        of(**options, targets=y + sign * step * direction).train().predictions() for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * step)


def along(S, direction):
    """``S v`` for S of shape ``(rows, k, n, labels)``."""
    return torch.einsum("xkny,ny->xk", S, direction)


def direction():
    return torch.randn(ROWS, OUTPUTS, generator=torch.Generator().manual_seed(8)).double()


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        (Everything, squared),
        (Images, cross_entropy),
        (Centred, squared),
        (Attention, cross_entropy),
    ],
)
def test_with_curvature_it_is_the_derivative_of_the_run(kind, loss):
    options = {"kind": kind, "loss": loss}
    lens = Run(**options).attach(curvature="full").train().lens
    assert lens.strategy == "replayed"
    S = lens.smoother("test", reading="end-to-end")
    expected = retrained(direction(), **options)
    gap = (along(S, direction()) - expected).norm() / expected.norm()
    assert gap < 1e-5


def test_unequal_shares_of_accumulated_batches():
    options = {"kind": Everything, "accumulate": (0.25, 0.75)}
    lens = Run(**options).attach(curvature="full").train().lens
    expected = retrained(direction(), **options)
    S = lens.smoother("test", reading="end-to-end")
    assert (along(S, direction()) - expected).norm() < 1e-5 * expected.norm()


ADAPTIVE = {
    "adamw": ADAMW,
    "amsgrad": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True, "betas": (0.8, 0.9)}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.005, "centered": True, "momentum": 0.5}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01, "weight_decay": 0.1}),
    "radam": (torch.optim.RAdam, {"lr": 0.01, "betas": (0.9, 0.8)}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.05, "weight_decay": 0.1}),
}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_with_curvature_denominators_are_followed_too(name):
    options = {"kind": Everything, "optimizer": ADAPTIVE[name], "steps": 6}
    lens = Run(**options).attach(curvature="full").train().lens
    expected = retrained(direction(), **options)
    S = lens.smoother("test", reading="end-to-end")
    assert (along(S, direction()) - expected).norm() < 1e-5 * expected.norm()


def test_a_factor_that_is_held_fixed_is_named():
    run = Run(Everything).attach(curvature="full", probes=2)
    assert run.lens.snapshot().to_record()["full_curvature"] == 1.0

    def clip(*_):
        nn.utils.clip_grad_norm_(run.model.parameters(), 0.05)

    run.optimizer.register_step_pre_hook(clip)
    with pytest.warns(RefusalWarning, match="multiplied by .* after backpropagation"):
        run.train(2)


@pytest.mark.parametrize("optimizer", [SGD, ADAMW])
@pytest.mark.parametrize("kind", [Everything, Images])
def test_training_is_the_same_to_the_bit(kind, optimizer):
    ends = []
    for followed in (False, True):
        run = Run(kind, optimizer)
        if followed:
            run.attach(probes=4, stride=3)
            torch.manual_seed(5)
        run.train(5)
        if followed:
            run.lens.snapshot()
        run.train(2)
        state = [v for s in run.optimizer.state.values() for v in s.values()]
        tensors = [*run.model.state_dict().values(), *map(torch.as_tensor, state)]
        ends.append([*tensors, torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_two_readings_meet_where_the_network_hardly_moves():
    """They differ by what its Jacobian changes along the run."""
    gaps = []
    for rate in (0.02, 0.01):
        small = (torch.optim.SGD, {"lr": rate})
        lens = Run(Attention, small, steps=5).attach(curvature="full").train().lens
        telescoped, whole = (
            lens.smoother("test", reading=reading) for reading in ("telescoped", "end-to-end")
        )
        gaps.append(float((telescoped - whole).norm() / whole.norm()))
    assert gaps[0] < 0.02
    assert gaps[1] == pytest.approx(gaps[0] / 2, rel=0.2)


def test_it_goes_on_from_a_checkpoint():
    options = {"stride": 4, "probes": 5, "curvature": "full"}
    whole = Run(Everything, ADAMW).attach(**options).train(6)
    half = Run(Everything, ADAMW).attach(**options).train(6)
    state = half.lens.state_dict()
    again = Run(Everything, ADAMW)
    again.model.load_state_dict(half.model.state_dict())
    again.optimizer.load_state_dict(half.optimizer.state_dict())
    again.attach(**options)
    again.lens.load_state_dict(state)
    for run in (whole, again):
        torch.manual_seed(9)
        run.train(3)
    for key, value in whole.lens.snapshot().to_record().items():
        assert again.lens.snapshot().to_record()[key] == value, key


def test_two_lenses_hold_the_model_and_the_derivative_side_by_side():
    kinds, records = ("gauss-newton", "full"), {}
    for followed in (kinds, *((kind,) for kind in kinds)):
        run = Run(Everything, ADAMW)
        lenses = [
            run.attach(curvature=kind, probes=3, strategy="replayed").lens for kind in followed
        ]
        torch.manual_seed(5)
        for index in torch.arange(2 * BATCH).split(BATCH):
            with ExitStack() as steps:
                for lens in lenses:
                    steps.enter_context(lens.step(index))
                run._step(index)
        records[followed] = [lens.snapshot(reading="both").to_record() for lens in lenses]
    model, exact = records[kinds]
    assert [model] == records["gauss-newton",]
    assert [exact] == records["full",]
    size = "test/end_to_end/effective_parameters"
    assert model[size] != pytest.approx(exact[size], rel=0.01)


class Secretive(nn.Linear):
    """Noise from a generator that no reset reaches."""

    calls = 0

    def forward(self, x):
        Secretive.calls += 1
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(Secretive.calls))
        return super().forward(x + noise * self.training)


def test_what_cannot_be_run_again_is_refused_by_name():
    run = Run(lambda: Secretive(WIDTH, OUTPUTS)).attach(probes=3)
    with pytest.raises(ModelError, match="when it is run again"):
        run.train(1)


def test_another_loss_than_the_one_named_is_refused():
    run = Run(Everything).attach(probes=3)
    run.loss = cross_entropy
    with pytest.raises(TrainingMismatchError, match="not a multiple of the gradient of the given"):
        run.train(1)


def test_kernel_norms_and_constants_are_refused_by_name():
    with pytest.raises(ConfigurationError, match="kernel_norms=True needs training whose rows"):
        Run(Everything).attach(kernel_norms=True)
    with pytest.raises(ConfigurationError, match="curvature='full' is followed by"):
        Run(Everything).attach(curvature="full", strategy="midpoint")


@pytest.mark.parametrize(("kind", "in_forward_mode"), [(Images, 2), (Attention, 2), (Centred, 9)])
def test_forward_mode_is_asked_once_a_block_and_always_where_it_disagrees(
    kind, in_forward_mode, monkeypatch
):
    """Behind a ``detach`` backpropagation stops, and derivatives of the run do not.

    The first two passes are also compared with differences, along one direction each.
    """
    asked, push = [], TrainingPass._push_forward

    def counted(self, Z):
        asked.append(Z.shape[1])
        return push(self, Z)

    monkeypatch.setattr(TrainingPass, "_push_forward", counted)
    Run(kind).attach(stride=3, probes=3).train(6)
    assert len(asked) == in_forward_mode


class Around(Run):
    """Every batch in an iteration of its own, and nothing but the optimizer's step is wrapped."""

    def _step(self, index):
        generator = torch.Generator().manual_seed(4)
        for share, part in zip(self.shares, index.chunk(len(self.shares)), strict=True):
            rows = self.x[part] + 0.05 * torch.randn(len(part), WIDTH, generator=generator).double()
            (share * self.loss(self.model(rows), self.y[part])).backward()

    def train(self, steps=None):
        generator = torch.Generator().manual_seed(3)
        for step in range(steps or self.steps):
            index = torch.randperm(ROWS, generator=generator)[: BATCH * len(self.shares)]
            if step == 2:  # Thrown away.
                self._step(index)
                self.optimizer.zero_grad()
            self._step(index)
            copy.deepcopy(self.model), pickle.dumps(self.model)
            with nullcontext() if self.lens is None else self.lens.step(index):
                self.optimizer.step()
            self.optimizer.zero_grad()
        with torch.no_grad():  # Running statistics follow, though nothing is trained.
            self.model(self.x)
        return self


@pytest.mark.parametrize("shares", [(1.0,), (0.25, 0.75)])
def test_passes_made_before_the_step_of_the_lens_begins(shares):
    options = {"kind": Images, "accumulate": shares, "of": Around}
    run = Around(Images, accumulate=shares).attach(curvature="full").train()
    expected = retrained(direction(), **options)
    S = run.lens.smoother("test", reading="end-to-end")
    assert (along(S, direction()) - expected).norm() < 1e-5 * expected.norm()
    hooks = run.model._forward_pre_hooks, run.model._forward_hooks
    run.lens = None
    gc.collect()
    assert not any(hooks)
