"""Wrappers of frameworks that only hand a step over are seen through; others are named."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from telescope_core.errors import UnsupportedOptimizerError
from telescope_core.lens import TelescopeLens
from telescope_core.update_rules import inner_optimizer, require_rule

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    accelerate = pytest.importorskip("accelerate", reason="needs telescope-lens[transformers]")
    lightning = pytest.importorskip("lightning", reason="needs telescope-lens[lightning]")

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


@pytest.mark.parametrize("wrap", [of_accelerate, of_lightning])
def test_a_lens_follows_the_optimizer_inside_of_a_frameworks_wrapper(wrap):
    torch.manual_seed(0)
    net = nn.Linear(2, 1)
    inner = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer = wrap(inner)
    x, y = torch.randn(6, 2), torch.randn(6, 1)
    lens = TelescopeLens(net, optimizer, nn.functional.mse_loss, x, y, probes="exact", stride=2)
    for _ in range(4):
        with lens.step(torch.arange(6)):
            inner.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            inner.step()
    torch.testing.assert_close(
        lens.smoothed("train").reshape(6, 1), net(x).detach(), rtol=1e-5, atol=1e-5
    )


def test_other_wrappers_are_named_and_the_optimizer_inside_is_asked_for():
    wrapper = Lookahead(plain())
    message = r"Lookahead wraps a SGD.*pass the inner optimizer, Lookahead\.optimizer"
    with pytest.raises(UnsupportedOptimizerError, match=message):
        require_rule(inner_optimizer(wrapper))
    require_rule(wrapper.optimizer)


def test_nothing_else_is_unwrapped():
    optimizer = plain()
    assert inner_optimizer(of_accelerate(optimizer)) is optimizer
    assert inner_optimizer(of_lightning(optimizer)) is optimizer
    assert inner_optimizer(optimizer) is optimizer
    assert inner_optimizer(None) is None
