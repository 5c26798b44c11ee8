"""Training of a part of the weights, averages of them, and batches that come in parts."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from support.execution import (
    Execution,
    Network,
    Run,
    along,
    assert_same_training,
    retrained,
)
from telescope_core.errors import TrainingMismatchError
from telescope_core.lens import TelescopeLens


class Adapter(nn.Module):
    """A frozen layer with a trained product of two small matrices beside it (LoRA)."""

    def __init__(self, layer, rank=1):
        super().__init__()
        self.layer, self.drop = layer.requires_grad_(False), nn.Dropout(0.1)
        self.down = nn.Parameter(0.3 * torch.randn(rank, layer.in_features))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.is_merged = False

    def merge(self, sign=1.0):
        with torch.no_grad():
            self.layer.weight += sign * (self.up @ self.down)
        self.is_merged = sign > 0

    def forward(self, x):
        beside = 0.0 if self.is_merged else self.drop(x) @ self.down.T @ self.up.T
        return self.layer(x) + beside


class Adapted(Network):
    """All of it frozen but for the adapters of two layers."""

    def __init__(self):
        super().__init__()
        self.requires_grad_(False)
        self.first, self.last = Adapter(self.first), Adapter(self.last)


def test_adapters_beside_frozen_layers():
    """The optimizer is given everything; columns exist for what is trained alone."""
    way = Execution(make=Adapted)
    assert_same_training(way, probes=None)
    lens = assert_same_training(way)
    expected = retrained(way)
    assert (along(lens) - expected).norm() < 1e-8 * expected.norm()
    trained = sum(p.numel() for p in Adapted().parameters() if p.requires_grad)
    assert len(lens._run.linearizer.function.theta()) == trained
    whole = Run(Execution()).attach().train().lens
    assert 2 * lens._run.smoother_bytes < whole._run.smoother_bytes


def test_adapters_that_are_merged_for_a_while():
    """Read while merged, predictions are the same; frozen weights that moved are taken as it is."""

    def merge(run, sign=1.0):
        for module in (run.inner.first, run.inner.last):
            module.merge(sign)

    def look(run, step):
        if step == 2:
            merge(run)
            run.seen = None if run.lens is None else run.lens.telescoped("test")
            merge(run, -1.0)

    way = Execution(make=Adapted, event=look)
    assert_same_training(way, probes=None)
    run, apart = Run(way).attach(probes=None).train(), Run(way.but(steps=2)).attach(probes=None)
    before = apart.lens.predictions("test")
    apart.train()
    moved = (apart.lens.predictions("test") - before).abs().mean()
    assert (run.seen - apart.lens.telescoped("test")).abs().mean() < 1e-3 * moved
    outputs = run.predictions()
    merge(run)
    assert (run.lens.predictions("test") - outputs).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["EMA", "SWA"])
def test_averages_as_models_of_their_own(kind):
    """A lens without an optimizer follows the average, its statistics taken anew at the end."""
    run = Run(Execution(steps=8))
    decay = get_ema_multi_avg_fn(0.5) if kind == "EMA" else None
    average = AveragedModel(run.inner, multi_avg_fn=decay, use_buffers=kind == "EMA")
    lens = TelescopeLens(average, eval_sets={"test": run.test}, stride=1)
    at_first = lens.predictions("test")

    def update(run, step):
        with lens.step():
            average.update_parameters(run.inner)

    run.way.event = update
    run.train()
    if kind == "SWA":
        with lens.step():
            update_bn(run.x.split(8), average)
    outputs = average.eval()(run.test).detach()
    assert torch.equal(lens.predictions("test"), outputs)
    moved = (outputs - at_first).abs().mean()
    assert (outputs - lens.telescoped("test")).abs().mean() < 0.05 * moved


class Calm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))


def test_shares_that_are_not_those_of_the_rows_are_refused_unless_passes_are_run_again():
    """A mean of means over batches of unequal size, which is no mean over their rows."""

    class Weighted(Run):
        def _step(self, index, step):
            self.optimizer.zero_grad()
            for part in index.split([2, 6]):
                (0.5 * (self.model(self.x[part]) - self.y[part]).square().mean()).backward()
            self.optimizer.step()

    def attached(**options):
        run = Weighted(Execution(make=Calm))
        told = (run.model, run.optimizer, nn.MSELoss(), run.x, run.y, {"test": run.test})
        run.lens = TelescopeLens(*told, probes="exact", stride=1, **options)
        return run

    with pytest.raises(TrainingMismatchError, match="not a multiple of the gradient"):
        attached().train()
    S = attached(strategy="replayed", curvature="full").train().lens
    ends = []
    for sign in (1, -1):
        run = Weighted(Execution(make=Calm))
        run.y = run.y + sign * 1e-5 * torch.ones_like(run.y)
        ends.append(run.train().predictions())
    expected = (ends[0] - ends[1]) / 2e-5
    actual = S.smoother("test", reading="end-to-end").sum(dim=(2, 3))
    assert (actual - expected).norm() < 1e-8 * expected.norm()


def test_evaluation_with_gradients_off_and_on_in_between_changes_nothing():
    """Passes in evaluation mode between steps are none of training."""

    def look(run, step):
        run.inner.eval()
        run.inner(run.test)
        with torch.no_grad():
            run.inner(run.test)
        run.inner.train()

    way = Execution(event=look)
    assert (along(assert_same_training(way)) - retrained(way)).norm() < 1e-9
