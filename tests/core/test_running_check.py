"""Faults planted in the library are noticed by its own checks within one block."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from telescope_core.errors import TelescopeError
from telescope_core.jacobians import layers, traced
from telescope_core.jacobians.functional import FunctionalLinearization
from telescope_core.jacobians.rows import RowSet
from telescope_core.lens import TelescopeLens
from telescope_core.losses.gradient import LossGradient
from telescope_core.network import twins
from telescope_core.update_rules import adam, sgd

D = torch.float64
STRIDE = 4


class Shared(nn.Module):
    """A layer used twice, a hook that is part of the function, and a bare parameter."""

    def __init__(self):
        super().__init__()
        self.embed, self.shared, self.head = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.full((4,), 1.3))
        self.embed.register_forward_hook(lambda _module, _inputs, output: 1.7 * output)

    def forward(self, x):
        h = torch.tanh(self.shared(torch.tanh(self.shared(self.embed(x)))))
        return self.head(self.scale * h)


class Run:
    def __init__(self, optimizer=SGD, **options):
        torch.manual_seed(0)
        self.model = Shared().double()
        self.x, self.y = torch.randn(8, 3, dtype=D), torch.randn(8, 2, dtype=D)
        self.weight = 1.0
        kwargs = {"momentum": 0.9} if optimizer is SGD and options.pop("momentum", True) else {}
        self.optimizer = optimizer(self.model.parameters(), lr=0.02, **kwargs)
        options = {"probes": "exact", "stride": STRIDE} | options
        sets = {"test": self.x[:3] + 0.1}
        self.lens = TelescopeLens(
            self.model, self.optimizer, self.loss, self.x, self.y, sets, **options
        )

    def loss(self, f, y):
        return self.weight * ((f - y) ** 2).mean()

    def train(self, steps):
        for number in range(steps):
            index = torch.arange(number, number + 3) % 8
            with self.lens.step(index):
                self.optimizer.zero_grad()
                self.loss(self.model(self.x[index]), self.y[index]).backward()
                self.optimizer.step()


def drop_a_use_of_a_shared_layer(monkeypatch):
    original = layers.Layer.factors
    seen = []

    def factors(self, x, delta):
        seen.append(self.weight.name)
        if seen.count("shared.weight") % 2 == 0 and self.weight.name == "shared.weight":
            return
        yield from original(self, x, delta)

    monkeypatch.setattr(layers.Layer, "factors", factors)


def forget_a_bias(monkeypatch):
    def _outer(layer, a, delta):
        yield layers.OuterFactor(layer.weight.rows, a, delta)

    monkeypatch.setattr(layers, "_outer", _outer)


def forget_what_no_layer_covers(monkeypatch):
    monkeypatch.setattr(traced, "_reached", lambda outputs, leaves: frozenset())


def skip_a_forward_hook(monkeypatch):
    original = twins._twin

    def twin(value, of_tensor):
        made = original(value, of_tensor)
        return type(value)() if isinstance(value, dict) and _holds_hooks(value) else made

    monkeypatch.setattr(twins, "_twin", twin)


def _holds_hooks(value):
    return bool(value) and all(callable(v) and not isinstance(v, nn.Module) for v in value.values())


def wrong_forward_mode(monkeypatch):
    original = FunctionalLinearization.jvp
    monkeypatch.setattr(FunctionalLinearization, "jvp", lambda self, d: 0.9 * original(self, d))


def stale_inputs(monkeypatch):
    original = RowSet.take

    def take(self, index):
        rows = original(self, index)
        return rows if isinstance(index, slice) else rows + 0.1

    monkeypatch.setattr(RowSet, "take", take)


def stale_momentum(monkeypatch):
    monkeypatch.setattr(sgd, "_with_momentum", lambda G, M, begun, group: M.copy_(G))


def wrong_denominator(monkeypatch):
    original = adam.AdamRule._denominator
    monkeypatch.setattr(adam.AdamRule, "_denominator", lambda self, *at: 1.1 * original(self, *at))


FAULTS = [
    drop_a_use_of_a_shared_layer,
    forget_a_bias,
    forget_what_no_layer_covers,
    skip_a_forward_hook,
    stale_inputs,
]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("strategy", ["parameter-space", "midpoint", "function-space"])
def test_a_fault_in_the_linearisation_is_noticed_within_a_block(fault, strategy, monkeypatch):
    run = Run(strategy=strategy)
    run.train(STRIDE)
    fault(monkeypatch)
    with pytest.raises(TelescopeError):
        run.train(STRIDE)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f is not skip_a_forward_hook])
def test_and_without_a_smoother(fault, monkeypatch):
    run = Run(probes=None)
    run.train(STRIDE)
    fault(monkeypatch)
    with pytest.raises(TelescopeError):
        run.train(STRIDE)


def test_forward_mode_is_compared_with_reverse_mode(monkeypatch):
    run = Run(form="functional")
    run.train(STRIDE)
    wrong_forward_mode(monkeypatch)
    with pytest.raises(TelescopeError, match="forward and reverse"):
        run.train(STRIDE)


@pytest.mark.parametrize(
    ("optimizer", "fault"), [(SGD, stale_momentum), (AdamW, wrong_denominator)]
)
def test_a_fault_in_a_rule_is_noticed_at_the_next_step(optimizer, fault, monkeypatch):
    run = Run(optimizer)
    run.train(2)
    fault(monkeypatch)
    with pytest.raises(TelescopeError, match="did not move by"):
        run.train(1)


def test_a_stale_scale_of_the_loss_is_noticed_in_function_space(monkeypatch):
    run = Run(strategy="function-space", momentum=False)
    run.train(STRIDE)
    stale = run.lens._run.engines.problem.loss.scale(run.y[:3])
    monkeypatch.setattr(LossGradient, "scale", lambda self, targets: stale)
    run.weight = 0.8
    with pytest.raises(TelescopeError, match=r"f − y"):
        run.train(STRIDE)


def test_and_makes_no_difference_in_parameter_space(monkeypatch):
    run, right = Run(), Run()
    run.train(STRIDE)
    right.train(STRIDE)
    run.weight = right.weight = 0.8
    right.train(STRIDE)
    stale = run.lens._run.engines.problem.loss.scale(run.y[:3])
    monkeypatch.setattr(LossGradient, "scale", lambda self, targets: stale / 0.8)
    run.train(STRIDE)
    assert torch.allclose(run.lens.smoother("test"), right.lens.smoother("test"), rtol=1e-9)


def test_nothing_is_noticed_where_nothing_is_wrong():
    for optimizer in (SGD, AdamW):
        for strategy in ("parameter-space", "midpoint"):
            for form in ("auto", "functional"):
                Run(optimizer, strategy=strategy, form=form).train(3 * STRIDE)
    Run(strategy="function-space", momentum=False).train(3 * STRIDE)


def test_the_checks_leave_no_trace():
    checked, plain = Run(), Run(probes=None)
    checked.train(2 * STRIDE)
    state = copy.deepcopy(checked.model.state_dict())
    plain.train(2 * STRIDE)
    assert all(torch.equal(state[k], v) for k, v in plain.model.state_dict().items())
