"""An update rule and a layer of one's own, registered from outside through public names only."""

import math

import pytest
import torch
from torch import nn, optim

from telescope_core.errors import ConfigurationError, ModelError, TrainingMismatchError
from telescope_core.jacobians import DenseFactor, Linearizer, OuterFactor, register_layer
from telescope_core.network.layout import ParameterLayout
from telescope_core.testing import assert_agrees
from telescope_core.testing.scenario import Training
from telescope_core.update_rules import UpdateRule, register_rule

D = torch.float64


class Heavy(optim.SGD):
    """Torch's momentum under another name."""


class HeavyRule(UpdateRule):
    share = 1.0

    def push(self, gradient, path, skipped):
        for slot, group in self.active(skipped):
            rows = slot.segment.rows
            M = self.buffer("velocity", slot)
            if M is None:
                M = self.seed_buffer("velocity", slot, "momentum_buffer").copy_(gradient[rows])
            else:
                M.mul_(group["momentum"]).add_(gradient[rows])
            path[rows].sub_(M, alpha=self.share * group["lr"])

    def preconditioner(self):
        return None


class Halved(HeavyRule):
    share = 0.5


class Mixing(nn.Module):
    """A scaled linear map without a bias, and a gate for every output."""

    def __init__(self, d_in, d_out):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(d_out, d_in) / math.sqrt(d_in))
        self.gate = nn.Parameter(torch.linspace(0.5, 1.5, d_out))

    def forward(self, x):
        return 2 * (x @ self.matrix.T) + self.gate.square()


def mixing_factors(layer, x, delta):
    if layer.weight is not None:
        yield OuterFactor(layer.weight.rows, 2 * x[:, None], delta[:, :, None])
    if layer.bias is not None:
        yield DenseFactor.of(layer.bias, 2 * layer.module.gate * delta)


def training(make=optim.SGD, **options):
    torch.manual_seed(0)
    model = nn.Sequential(Mixing(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x, y = torch.randn(8, 3, dtype=D), torch.randn(8, 2, dtype=D)
    optimizer = make(model.parameters(), lr=0.05, **options)
    batches = [torch.randperm(8)[:4] for _ in range(7)]
    return Training(model, optimizer, nn.MSELoss(), x, y, {"test": x[:3] + 0.1}, batches)


@pytest.fixture
def mixing():
    """A class of its own for each test, since what is registered stays."""
    return type("Mixing", (Mixing,), {})


def test_a_rule_agrees_with_the_dense_account(lens_of, oracle_of):
    optimizer = type("Heavy", (Heavy,), {})
    register_rule(optimizer, HeavyRule)
    run = training(optimizer, momentum=0.9)
    lens, oracle = lens_of(run, stride=3), oracle_of(run, stride=3)
    run.run(lens, oracle)
    for name in ("train", "test"):
        assert_agrees(lens.smoother(name), oracle.smoother(name), tolerance=1e-9, what="S")
        assert_agrees(lens.smoothed(name), oracle.smoothed(name), tolerance=1e-9, what="S·Y + c")


def test_a_rule_that_is_not_the_optimizers_is_refused(lens_of):
    optimizer = type("Heavy", (Heavy,), {})
    register_rule(optimizer, Halved)
    run = training(optimizer, momentum=0.9)
    with pytest.raises(TrainingMismatchError, match="did not move by Heavy's update"):
        run.run(lens_of(run))


@pytest.mark.parametrize("arguments", [(nn.Linear, HeavyRule), (optim.SGD, nn.Linear), (1, 2)])
def test_what_is_no_rule_of_an_optimizer(arguments):
    with pytest.raises(ConfigurationError, match="expected a subclass of"):
        register_rule(*arguments)


def test_a_layer_agrees_with_the_dense_account(lens_of, oracle_of, mixing):
    register_layer(mixing, mixing_factors, weight="matrix", bias="gate")
    run = training()
    run.model[0].__class__ = mixing
    lens = lens_of(run, stride=3, form="factors", layer_shares=True)
    oracle = oracle_of(run, stride=3)
    run.run(lens, oracle)
    for name in ("train", "test"):
        assert_agrees(lens.smoother(name), oracle.smoother(name), tolerance=1e-9, what="S")


def test_a_layer_is_used_in_place_of_torch_func(mixing):
    def linearized(model):
        layout = ParameterLayout(dict(model.named_parameters()))
        linearizer = Linearizer(model, layout, x)
        return linearizer, linearizer.linearize(linearizer.function.theta(), x)

    torch.manual_seed(0)
    x = torch.randn(6, 3, dtype=D)
    model = mixing(3, 2).double()
    plain, by_columns = linearized(model)
    register_layer(mixing, mixing_factors, weight="matrix", bias="gate")
    taught, by_factors = linearized(model)
    assert (plain.form, taught.form) == ("functional", "factors")
    assert_agrees(
        by_factors.gram(by_factors), by_columns.gram(by_columns), tolerance=1e-12, what="K"
    )


def without_the_chain_rule(layer, x, delta):
    yield OuterFactor(layer.weight.rows, 2 * x[:, None], delta[:, :, None])
    yield DenseFactor.of(layer.bias, delta)


def of_another_shape(layer, x, delta):
    yield DenseFactor.of(layer.weight, delta.reshape(7, -1))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (without_the_chain_rule, r"registered for Mixing do not reproduce .* in 0\.gate"),
        (of_another_shape, "registered for Mixing fail on inputs of shape"),
    ],
)
def test_factors_that_are_wrong_are_refused(lens_of, mixing, factors, message):
    register_layer(mixing, factors, weight="matrix", bias="gate")
    run = training()
    run.model[0].__class__ = mixing
    with pytest.raises(ModelError, match=message):
        lens_of(run)
    lens_of(run, form="functional")


def test_what_is_no_layer():
    with pytest.raises(ConfigurationError, match="expected a subclass of"):
        register_layer("Mixing", mixing_factors)
