"""Rules that hold nothing fixed, against forward mode through torch's own optimizers."""

import pytest
import torch
from torch import nn, optim

from telescope_core.errors import UnsupportedOptimizerError
from telescope_core.network.layout import ParameterLayout
from telescope_core.testing.exact_columns import DifferentiatedColumns
from telescope_core.update_rules import UpdateRule, register_rule, rule_for

VARIANTS = {
    "adam": (optim.Adam, {"weight_decay": 0.3}),
    "adam-amsgrad": (optim.Adam, {"amsgrad": True, "betas": (0.5, 0.6), "maximize": True}),
    "adamw": (optim.AdamW, {"weight_decay": 0.3, "foreach": True}),
    "adamw-amsgrad": (optim.AdamW, {"amsgrad": True, "betas": (0.5, 0.6)}),
    "nadam": (optim.NAdam, {"weight_decay": 0.2, "momentum_decay": 0.1}),
    "nadam-decoupled": (optim.NAdam, {"weight_decay": 0.2, "decoupled_weight_decay": True}),
    "radam": (optim.RAdam, {"betas": (0.9, 0.7), "weight_decay": 0.2}),
    "rmsprop": (optim.RMSprop, {"weight_decay": 0.2, "maximize": True}),
    "rmsprop-all": (optim.RMSprop, {"momentum": 0.5, "centered": True, "weight_decay": 0.2}),
    "adagrad": (optim.Adagrad, {"lr_decay": 0.2, "weight_decay": 0.1}),
}
COLUMNS, STEPS = 3, 7
# The first step of most is along the sign of the gradient: its derivative is what cancels.
TOLERANCE = {False: 1e-6, True: 1e-12}


@pytest.fixture(autouse=True)
def _counters_in_double_precision():
    """Of that precision are torch's step counters, and what it makes of them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def parameters():
    generator = torch.Generator().manual_seed(4)
    shapes = {"weight": (3, 2), "bias": (3,), "late": (2,)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator))
        for name, shape in shapes.items()
    }


class Followed:
    """A rule that is pushed along an optimizer with random gradients."""

    def __init__(self, name, exactly=True):
        make, options = VARIANTS[name]
        self.named = parameters()
        weight, *others = self.named.values()
        groups = [{"params": [weight]}, {"params": others, "lr": 0.03}]
        self.optimizer = make(groups, lr=0.05, **options)
        self.layout = ParameterLayout(self.named)
        self.rule = rule_for(self.optimizer, self.layout, self.named, COLUMNS, 0)
        if exactly:
            self.rule.follow_denominators()
        self.path = torch.zeros(self.layout.size, COLUMNS)
        self.generator = torch.Generator().manual_seed(5)

    def step(self, skipped, dead=None, around=lambda: None):
        gradient = torch.randn(self.layout.size, generator=self.generator)
        moves = torch.randn(self.path.shape, generator=self.generator)
        for array in (gradient, moves):
            for name in skipped:
                array[self.layout.by_name[name].rows] = 0
            if dead is not None:
                array[dead] = 0
        for name, rows in self.layout.unflatten(gradient).items():
            self.named[name].grad = None if name in skipped else rows.clone()
        before = around()
        self.rule.before_update()
        self.rule.look_at(gradient)
        self.optimizer.step()
        self.rule.push(moves.clone(), self.path, skipped)
        return before, self.by_parameter(moves)

    def by_parameter(self, columns):
        """Columns in the order in which parameters hold their entries."""
        return torch.cat([c.reshape(-1, COLUMNS) for c in self.layout.unflatten(columns).values()])


@pytest.mark.parametrize("name", VARIANTS)
def test_columns_move_by_the_derivative_of_the_step(name):
    run = Followed(name)
    oracle = DifferentiatedColumns(run.optimizer, COLUMNS)
    for step in range(STEPS):
        oracle.step(*run.step(frozenset(["late"] if step in (0, 3) else []), around=oracle.observe))
        gap = (run.by_parameter(run.path) - oracle.values).norm() / oracle.values.norm()
        assert gap < TOLERANCE[step > 0], f"step {step}: {gap}"


@pytest.mark.parametrize("name", ["adamw-amsgrad", "rmsprop-all", "adagrad", "radam"])
def test_where_no_gradient_was_ever_seen_nothing_is_divided(name):
    run = Followed(name)
    if "weight_decay" in VARIANTS[name][1]:
        with torch.no_grad():
            run.named["weight"][0, 0] = 0.0  # Else it decays, by a gradient of its own.
    for _ in range(STEPS):
        run.step(frozenset(), dead=0)
    assert torch.equal(run.path[0], torch.zeros(COLUMNS))
    assert run.path.isfinite().all()
    assert run.path[1:].any(dim=1).all()


class Own(optim.SGD):
    """An optimizer with a rule from outside."""


class OwnRule(UpdateRule):
    def push(self, gradient, path, skipped):
        path.sub_(gradient)

    def preconditioner(self):
        return None


class LinearRule(OwnRule):
    is_linear = True


def test_a_rule_that_does_not_say_that_it_is_linear_is_refused_by_name():
    named = parameters()
    optimizer = Own(named.values(), lr=0.1)
    for rule in (OwnRule, LinearRule):
        register_rule(Own, rule)
        made = rule_for(optimizer, ParameterLayout(named), named, COLUMNS, 0)
        if rule is LinearRule:
            made.follow_denominators()
        else:
            with pytest.raises(UnsupportedOptimizerError, match="exact derivative of Own's step"):
                made.follow_denominators()
