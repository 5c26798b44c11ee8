"""What frameworks wrap around an optimizer is named, and the optimizer inside is asked for."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from telescope_core.errors import UnsupportedOptimizerError
from telescope_core.update_rules import require_rule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    accelerate = pytest.importorskip("accelerate", reason="needs telescope-lens[transformers]")
    lightning = pytest.importorskip("lightning", reason="needs telescope-lens[lightning]")

from telescope_core.callbacks._accelerate import inner_optimizer
from telescope_core.callbacks.lightning import _inner

pytestmark = pytest.mark.filterwarnings("ignore:::accelerate", "ignore:::lightning")


class Lookahead:
    """Moves the parameters itself, besides what the optimizer inside does."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups


def plain():
    return torch.optim.SGD(nn.Linear(2, 1).parameters(), lr=0.1)


def of_accelerate(optimizer):
    accelerate.Accelerator(cpu=True)
    return accelerate.optimizer.AcceleratedOptimizer(optimizer)


def of_lightning(optimizer):
    return lightning.pytorch.core.optimizer.LightningOptimizer(optimizer)


@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (of_accelerate, "AcceleratedOptimizer"),
        (of_lightning, "LightningSGD"),
        (Lookahead, "Lookahead"),
    ],
)
def test_the_smoother_asks_for_the_optimizer_inside(wrap, name):
    wrapper = wrap(plain())
    message = rf"{name} wraps a SGD.*pass the inner optimizer, {name}\.optimizer"
    with pytest.raises(UnsupportedOptimizerError, match=message):
        require_rule(wrapper)
    require_rule(wrapper.optimizer)


def test_callbacks_unwrap_their_own_framework_and_nothing_else():
    optimizer = plain()
    assert inner_optimizer(of_accelerate(optimizer)) is optimizer
    assert _inner(of_lightning(optimizer)) is optimizer
    for unwrap in (inner_optimizer, _inner):
        assert unwrap(optimizer) is optimizer
        lookahead = Lookahead(optimizer)
        assert unwrap(lookahead) is lookahead
