"""A loss that the model returns is recognised, or refused by name; then it is followed as any."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from telescope_core.errors import ConfigurationError, LossError, TrainingMismatchError
from telescope_core.lens import TelescopeLens

N, T, V = 10, 4, 6


class Model(nn.Module):
    """Returns its loss beside its logits, as models of transformers do."""

    def __init__(self, own=functional.cross_entropy, dropout=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, V))
        self.own = own

    def forward(self, x, labels=None):
        logits = self.body(x)
        loss = None if labels is None else self.own(logits, labels)
        return {"loss": loss, "logits": logits}


def rows():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 3, generator=generator)
    return {"x": x, "labels": torch.randint(V, (N,), generator=generator)}


def followed(model, loss="loss", train=None, targets=None, **options):
    train = rows() if train is None else train
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    options = {"probes": 6, "stride": 2, "output": "logits"} | options
    lens = TelescopeLens(model, optimizer, loss, train, targets, **options)
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(4)
    for _ in range(4):
        index = torch.randperm(N, generator=generator)[:5]
        with lens.step(index):
            optimizer.zero_grad()
            model(**{name: leaf[index] for name, leaf in train.items()})["loss"].backward()
            optimizer.step()
    return lens


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_is_followed_as_the_same_loss_given(dropout):
    known = rows()
    records = [
        followed(Model(dropout=dropout), loss, known, targets).snapshot().to_record()
        for loss, targets in (("loss", None), (functional.cross_entropy, known["labels"]))
    ]
    assert records[0] == pytest.approx(records[1], rel=1e-4, abs=1e-7)
    assert records[0]["train/degrees_of_freedom"] > 0


def doubled(f, y):
    return 2 * functional.cross_entropy(f, y)


def weighted(f, y):
    return functional.cross_entropy(f, y, weight=torch.arange(1.0, V + 1))


def with_a_term(f, y):
    return functional.cross_entropy(f, y) + 1e-2 * f.square().mean()


@pytest.mark.parametrize("own", [doubled, weighted, with_a_term])
def test_another_loss_is_refused_by_name(own):
    with pytest.raises(LossError, match=r"none that is known.*\(cross-entropy [\d.]+\).*Pass it"):
        followed(Model(own))


def test_a_loss_that_becomes_another_is_refused_at_the_step():
    class Later(Model):
        def forward(self, x, labels=None):
            returned = super().forward(x, labels)
            if self.training:
                returned["loss"] = with_a_term(returned["logits"], labels)
            return returned

    for dropout in (0.0, 0.3):
        with pytest.raises(TrainingMismatchError, match="not a multiple"):
            followed(Later(dropout=dropout))


def test_what_is_missing_is_named():
    with pytest.raises(ConfigurationError, match="output='logits'"):
        followed(Model(), output=None)
    with pytest.raises(ConfigurationError, match="from labels among its inputs"):
        followed(Model(), train={"x": rows()["x"]}, targets=rows()["labels"])
    with pytest.raises(LossError, match="expected a scalar tensor"):
        followed(Model(), "logits")
