"""Padded and ignored positions count as no rows: a run with them is the run without them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from telescope_core.errors import LossError, ModelError
from telescope_core.lens import TelescopeLens

N, T, V, IGNORED = 8, 3, 4, -100


class Positions(nn.Module):
    """The same small network at every position of a row."""

    def __init__(self, layout="positions first"):
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, V))
        self.layout = layout

    def forward(self, x):
        f = self.net(x)
        if self.layout == "flat":
            return f.flatten(0, 1)
        return f.transpose(1, 2) if self.layout == "classes first" else f


def data():
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(9, (N + 3, T), generator=generator)
    y = torch.randint(V, (N, T), generator=generator)
    y[torch.rand(N, T, generator=generator) < 0.4] = IGNORED
    y[2] = IGNORED  # a row with nothing to predict
    assert not bool((y == IGNORED).all())
    return x[:N], y, x[N:]


MEAN = nn.CrossEntropyLoss(ignore_index=IGNORED)


def last(f, y):
    return MEAN(f.transpose(1, 2), y)


def flattened(f, y):
    return MEAN(f.reshape(-1, V), y.reshape(-1))


def followed(model, loss, x, y, x_test, **options):
    model = model.double().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.5)
    options = {"probes": "exact", "stride": 2, "layer_shares": True} | options
    lens = TelescopeLens(model, optimizer, loss, x, y, {"test": x_test}, **options)
    for _ in range(5):
        with lens.step(torch.arange(len(x))):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return lens


@pytest.mark.parametrize(
    ("layout", "loss"),
    [("positions first", last), ("positions first", flattened), ("classes first", MEAN)],
)
def test_positions_that_count_are_rows_of_their_own(layout, loss):
    x, y, x_test = data()
    record = followed(Positions(layout), loss, x, y, x_test).snapshot().to_record()
    kept = y != IGNORED
    alone = followed(Positions(), of_rows, x[kept][:, None], y[kept][:, None], x_test[:, :1])
    single = alone.snapshot().to_record()
    # A row of T positions counts for one, with all of its outputs.
    for name in ("logit_sensitivity", "degrees_of_freedom", "hat_sensitivity"):
        assert record[f"train/{name}"] == pytest.approx(single[f"train/{name}"] / T, rel=1e-9)
    layers = [name for name in single if name.startswith("train/degrees_of_freedom/")]
    assert layers
    for name in layers:
        assert record[name] == pytest.approx(single[name] / T, rel=1e-9)


def of_rows(f, y):
    return MEAN(f.transpose(1, 2), y)


def test_a_row_with_nothing_to_predict_is_as_if_it_were_not_there():
    x, y, x_test = data()
    kept = (y != IGNORED).any(1)
    records = [
        followed(Positions(), last, rows, labels, x_test).snapshot().to_record()
        for rows, labels in ((x, y), (x[kept], y[kept]))
    ]
    measured = [name for name in records[0] if not name.endswith(("_error", "_error_stderr"))]
    assert len(measured) > 6
    for name in measured:
        assert records[0][name] == pytest.approx(records[1][name], rel=1e-9, abs=1e-12), name


def test_estimates_count_the_same_labels():
    x, y, x_test = data()
    exact = followed(Positions(), last, x, y, x_test).snapshot().to_record()
    estimates = [
        followed(Positions(), last, x, y, x_test, probes=24, deflate=4, seed=seed)
        for seed in range(6)
    ]
    for name in ("train/degrees_of_freedom", "train/logit_sensitivity", "test/logit_sensitivity"):
        values = torch.tensor([lens.snapshot().to_record()[name] for lens in estimates])
        error = float(values.std()) / 6**0.5
        assert abs(float(values.mean()) - exact[name]) < 4 * error + 0.02 * exact[name]


def test_a_mean_over_what_counts_needs_no_gradient_for_every_class():
    x, y, x_test = data()
    lens = followed(Positions(), last, x, y, x_test)
    labels = lens._run.engines.problem.loss.labels
    assert not labels.extends_linearly
    # The derivative is that of the linear extension, class by class.
    f = Positions().double()(x).detach()
    columns = torch.randn(N, T * V, 2, generator=torch.Generator().manual_seed(5)).double()
    found = labels.mixed_derivative(f, y, columns)
    labels.extends_linearly = True
    torch.testing.assert_close(found, labels.mixed_derivative(f, y, columns), rtol=1e-9, atol=1e-12)


def test_a_batch_of_which_everything_is_ignored_is_named():
    x, y, x_test = data()
    lens = followed(Positions(), last, x, y, x_test)
    nothing = torch.tensor([2])
    optimizer = lens._follower._optimizer
    with pytest.raises(LossError, match="all of them ignored"), lens.step(nothing):
        optimizer.step()


def test_positions_flattened_into_rows_are_told_apart_by_output():
    x, y, x_test = data()
    with pytest.raises(ModelError, match=r"output=lambda f: f\.reshape"):
        followed(Positions("flat"), flattened, x, y, x_test)
    expected = followed(Positions(), flattened, x, y, x_test).snapshot().to_record()
    apart = followed(
        Positions("flat"), flattened, x, y, x_test, output=lambda f: f.reshape(-1, T, V)
    )
    assert apart.snapshot().to_record() == pytest.approx(expected, rel=1e-9)
