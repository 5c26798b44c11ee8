"""Half precision and autocast: the lens stays accurate, and leaves the training alone."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from telescope_core.errors import TrainingMismatchError
from telescope_core.jacobians import Linearizer
from telescope_core.lens import TelescopeLens
from telescope_core.network.layout import ParameterLayout
from telescope_core.testing import assert_agrees

HALF = torch.bfloat16
ROUNDING = torch.finfo(HALF).eps  # 1/128: one step of a bfloat16 number


def perceptron():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(inplace=True), nn.Linear(16, 3))


class Reader(nn.Module):
    """Tokens, recurrent weights, buffers and an attention block."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.attend = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, tokens):
        h = self.attend(self.recurrent(self.embed(tokens))[0])
        return self.out(self.norm(h.mean(1)))


class Insisting(nn.Module):
    """A forward that casts to half precision whatever its weights are."""

    def __init__(self):
        super().__init__()
        self.layers = perceptron()

    def forward(self, x):
        return self.layers(x.to(HALF)).to(x.dtype)


class Autocast(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = perceptron()

    def forward(self, x):
        with torch.autocast(x.device.type, HALF):
            return self.layers(x).float()


def rows_for(model, count, dtype):
    generator = torch.Generator().manual_seed(1)
    if isinstance(model, Reader):
        return torch.randint(7, (count, 5), generator=generator)
    return torch.randn(count, 4, generator=generator).to(HALF).to(dtype)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.01)


def train(
    make, dtype, optimizer=sgd, where=None, watched=True, wrong_labels=False, steps=12, **options
):
    """A short run whose weights and data are bfloat16 numbers, computed in ``dtype``.

    ``where`` says what an autocast is put around: "step" or the "loss" alone; ``wrong_labels``
    trains on the labels of other rows than the lens is told.
    """
    torch.manual_seed(0)
    model = make().eval().to(HALF).to(dtype)
    x = rows_for(model, 24, dtype)
    y = torch.randn(24, 3, generator=torch.Generator().manual_seed(2)).to(HALF).to(dtype)
    optimizer, loss = optimizer(model.parameters()), nn.MSELoss()
    settings = {"probes": "exact", "stride": 3, **options}
    lens = None
    if watched:
        lens = TelescopeLens(model, optimizer, loss, x[:16], y[:16], {"test": x[16:]}, **settings)

    def autocast(here):
        return torch.autocast("cpu", HALF) if where == here else nullcontext()

    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        index = torch.randperm(16, generator=generator)[:8]
        with autocast("step"), lens.step(index) if lens else nullcontext():
            optimizer.zero_grad()
            seen = index.flip(0) if wrong_labels else index
            with autocast("loss"):
                value = loss(model(x[index]), y[seen])
            value.backward()
            optimizer.step()
    return model, lens


def assert_close(lens, reference, tolerance):
    """Two lenses on nearly the same run, up to rounding of the training itself."""
    for name in ("train", "test"):
        for quantity in ("predictions", "telescoped", "linearized", "smoother", "constant"):
            actual, expected = (getattr(one, quantity)(name) for one in (lens, reference))
            assert actual.dtype == torch.float32
            assert_agrees(actual, expected, tolerance=tolerance, what=f"{quantity} of {name}")
    actual, expected = lens.snapshot().to_record(), reference.snapshot().to_record()
    for key in ("train/effective_parameters", "train/degrees_of_freedom"):
        assert actual[key] == pytest.approx(expected[key], rel=tolerance)
    assert expected["test/effective_parameters"] > 1, "nothing was learned"


@pytest.mark.parametrize("dtype", [HALF, torch.float16])
@pytest.mark.parametrize("make", [perceptron, Reader])
def test_half_precision_is_linearised_as_single_precision_at_the_same_weights(make, dtype):
    torch.manual_seed(0)
    model = make().eval().to(dtype)
    raised = make().eval()
    raised.load_state_dict(model.state_dict())
    layout = ParameterLayout(dict(model.named_parameters()), torch.float32)
    made = []
    for one in (model, raised):
        rows = rows_for(one, 6, next(one.parameters()).dtype)
        linearizer = Linearizer(one, layout, rows[:3])
        assert linearizer.form == "factors"
        made.append(linearizer.linearize(linearizer.function.theta(), rows))
        own = one(rows).detach()
        assert_agrees(made[-1].outputs, own, tolerance=4 * torch.finfo(own.dtype).eps, what="f")
    V = torch.randn(layout.size, 5)
    R = torch.randn(6, 3, 5)
    assert_agrees(made[0].outputs, made[1].outputs, tolerance=1e-5, what="f")
    assert_agrees(made[0].jvp(V), made[1].jvp(V), tolerance=1e-5, what="J·A")
    assert_agrees(made[0].vjp(R), made[1].vjp(R), tolerance=1e-5, what="Jᵀ·R")
    assert all(p.dtype == dtype for p in model.parameters())
    assert all(b.dtype == dtype for b in model.buffers() if b.is_floating_point())


def test_a_forward_that_insists_on_half_precision_is_linearised_as_it_computes():
    torch.manual_seed(0)
    model = Insisting().to(HALF)
    x = rows_for(model, 6, torch.float32)
    layout = ParameterLayout(dict(model.named_parameters()), torch.float32)
    linearizer = Linearizer(model, layout, x[:3])
    assert linearizer.form == "factors"
    made = linearizer.linearize(linearizer.function.theta(), x)
    assert torch.equal(made.outputs, model(x))
    raised = perceptron()
    raised.load_state_dict(model.layers.state_dict())
    exact = Linearizer(raised, ParameterLayout(dict(raised.named_parameters()), torch.float32), x)
    V = torch.randn(layout.size, 5)
    expected = exact.linearize(exact.function.theta(), x).jvp(V)
    assert_agrees(made.jvp(V), expected, tolerance=4 * ROUNDING, what="J·A")
    assert not torch.equal(made.jvp(V), expected)


@pytest.mark.parametrize("probes", [None, 5, "exact"], ids=str)
@pytest.mark.parametrize("optimizer", [sgd, adamw])
@pytest.mark.parametrize("make", [perceptron, Reader])
def test_training_has_the_same_bits_with_and_without_the_lens(make, optimizer, probes):
    plain, _ = train(make, HALF, optimizer, watched=False, steps=5)
    watched, lens = train(make, HALF, optimizer, probes=probes, kernel_norms=probes == 5, steps=5)
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True)
    )
    assert all(torch.isfinite(torch.tensor(v)) for v in lens.snapshot().to_record().values())


@pytest.mark.parametrize("strategy", ["parameter-space", "function-space"])
@pytest.mark.parametrize("make", [perceptron, Reader])
def test_measures_are_those_of_single_precision_within_rounding(make, strategy):
    options = {"strategy": strategy}
    if strategy == "function-space":
        options["optimizer"] = lambda p: torch.optim.SGD(p, lr=0.1)
    _, lens = train(make, HALF, **options)
    _, reference = train(make, torch.float32, **options)
    assert_close(lens, reference, 4 * ROUNDING)


def test_rounding_of_the_model_is_no_error_of_the_telescoping_model():
    _, lens = train(lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)), HALF)
    f, telescoped = lens.predictions("test"), lens.telescoped("test")
    assert float((f - telescoped).abs().mean()) < 0.1 * ROUNDING * float(f.abs().mean())


def test_autocast_inside_the_model():
    plain, _ = train(Autocast, torch.float32, watched=False)
    model, lens = train(Autocast, torch.float32)
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    _, reference = train(perceptron, torch.float32)
    assert_close(lens, reference, 4 * ROUNDING)


def test_autocast_around_the_whole_step():
    plain, _ = train(perceptron, torch.float32, where="step", watched=False)
    model, lens = train(perceptron, torch.float32, where="step", strategy="parameter-space")
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    _, reference = train(perceptron, torch.float32)
    assert_close(lens, reference, 4 * ROUNDING)


def test_autocast_around_forward_and_loss_only():
    plain, _ = train(perceptron, torch.float32, where="loss", watched=False)
    model, lens = train(perceptron, torch.float32, where="loss")
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    _, reference = train(perceptron, torch.float32)
    assert_close(lens, reference, 4 * ROUNDING)


@pytest.mark.parametrize("where", ["step", "loss"])
def test_labels_of_other_rows_are_refused_under_autocast_and_in_half_precision(where):
    with pytest.raises(TrainingMismatchError, match="not a multiple of the gradient"):
        train(perceptron, torch.float32, where=where, steps=2, wrong_labels=True)
    with pytest.raises(TrainingMismatchError, match="not a multiple of the gradient"):
        train(perceptron, HALF, steps=2, wrong_labels=True)


def test_products_do_not_round_under_an_autocast_of_the_caller():
    torch.manual_seed(0)
    model, V, R = perceptron(), torch.randn(131, 4), torch.randn(6, 3, 4)
    x = rows_for(model, 6, torch.float32)
    for form in ("factors", "functional"):
        layout = ParameterLayout(dict(model.named_parameters()), torch.float32)
        linearizer = Linearizer(model, layout, x, form)
        made = linearizer.linearize(linearizer.function.theta(), x)
        expected = made.jvp(V), made.vjp(R), made.gram(made)
        with torch.autocast("cpu", HALF):
            assert Linearizer(model, layout, x).form == "factors"
            again = linearizer.linearize(linearizer.function.theta(), x)
            actual = again.jvp(V), again.vjp(R), again.gram(again)
        assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
