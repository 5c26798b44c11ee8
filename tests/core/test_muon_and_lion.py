"""Muon and Lion: steps that are no average divided entry by entry."""

import pytest
import torch
from torch import nn

from telescope_core.errors import TrainingMismatchError, UnsupportedOptimizerError
from telescope_core.lens import TelescopeLens
from telescope_core.testing import assert_agrees
from telescope_core.update_rules import muon

ROWS, WIDTH, OUTPUTS = 10, 4, 3


class Lion(torch.optim.Optimizer):
    """The optimizer of the package of this name, written anew."""

    __module__ = "lion_pytorch.lion_pytorch"

    def __init__(self, params, lr, betas=(0.9, 0.99), weight_decay=0.0, by=1.0):
        self.by = by
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                M = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                beta1, beta2 = group["betas"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_((beta1 * M + (1 - beta1) * p.grad).sign() * self.by, alpha=group["lr"])
                M.mul_(beta2).add_(p.grad, alpha=1 - beta2)


OPTIMIZERS = {
    "muon": (torch.optim.Muon, {"lr": 0.02}),
    "muon-plain": (
        torch.optim.Muon,
        {"lr": 0.02, "nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    ),
    "lion": (Lion, {"lr": 0.02, "weight_decay": 0.2}),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(WIDTH, 5, bias=False)
        self.last = nn.Linear(5, OUTPUTS, bias=False)

    def forward(self, x):
        x = nn.functional.dropout(torch.tanh(self.first(x)), 0.2, self.training)
        return self.last(x)


def linear():
    return nn.Sequential(nn.Linear(WIDTH, OUTPUTS, bias=False))


def loss(f, y):
    return 0.5 * (f - y).square().mean()


def train(kind, optimizer, *, dtype=torch.float64, shift=0.0, steps=6, follow=True, **options):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype)
    y = torch.randn(ROWS, OUTPUTS, generator=generator, dtype=dtype) + shift
    torch.manual_seed(4)
    model = kind().to(dtype).train()
    make, given = optimizer
    optimizer = make(model.parameters(), **given)
    test = x[:3] + 1
    lens = None
    if follow:
        options = {"probes": "exact", "stride": 4, **options}
        lens = TelescopeLens(model, optimizer, loss, x, y, {"test": test}, **options)
    torch.manual_seed(5)
    for _ in range(steps):
        index = torch.randperm(ROWS, generator=generator)[:4]

        def step(index=index):
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()

        if lens is None:
            step()
        else:
            with lens.step(index):
                step()
    return lens, model.eval()(test).detach()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_linear_network_is_its_own_smoother(name, dtype):
    lens, outputs = train(linear, OPTIMIZERS[name], dtype=dtype, steps=12)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-3
    assert_agrees(lens.smoothed("test"), outputs, tolerance=tolerance, what="S·Y + c")
    assert float(lens.smoother("test").abs().max()) > 1e-3, "nothing was learned"


def test_with_curvature_muon_is_the_derivative_of_the_run(monkeypatch):
    # In bfloat16 the run is a staircase, which has no derivative to compare with.
    monkeypatch.setattr(muon, "_PRECISION", torch.float64)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    direction = torch.randn(ROWS, OUTPUTS, generator=torch.Generator().manual_seed(8)).double()
    for name in ("muon", "muon-plain"):
        lens, _ = train(Net, OPTIMIZERS[name], curvature="full")
        S = lens.smoother("test", reading="end-to-end")
        ends = [
            train(Net, OPTIMIZERS[name], shift=sign * 1e-6 * direction, follow=False)[1]
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / 2e-6
        gap = torch.einsum("xkny,ny->xk", S, direction) - expected
        assert gap.norm() < 1e-5 * expected.norm()


def test_the_derivative_of_a_sign_is_refused_by_name():
    with pytest.raises(UnsupportedOptimizerError, match="Lion's step, and LionRule steps along a"):
        train(Net, OPTIMIZERS["lion"], curvature="full")


@pytest.mark.parametrize("name", ["muon", "lion"])
def test_kernel_norms_are_refused_by_name(name):
    with pytest.raises(UnsupportedOptimizerError, match="kernel norms"):
        train(linear, OPTIMIZERS[name], kernel_norms=True)


def test_another_update_is_refused():
    with pytest.raises(TrainingMismatchError, match="did not move by Lion's update"):
        train(linear, (Lion, {"lr": 0.02, "by": 1.1}))


def test_another_orthogonalisation_is_refused(monkeypatch):
    monkeypatch.setattr(muon, "_adjusted", lambda rate, *_: 1.05 * rate)
    with pytest.raises(TrainingMismatchError, match="did not move by Muon's update"):
        train(linear, OPTIMIZERS["muon"])
