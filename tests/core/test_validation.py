"""What the lens cannot follow is refused with one clear error, before training starts."""

import re
import types

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam

from support.small_lens import KINDS, MSE, attach, rows
from telescope_core import memory
from telescope_core.errors import (
    ConfigurationError,
    LossError,
    MemoryBudgetError,
    ModelError,
    NonFiniteError,
    ShapeError,
    TelescopeError,
    TrainingMismatchError,
    UnsupportedOptimizerError,
)
from telescope_core.lens import TelescopeLens
from telescope_core.testing import Scenario


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ------------------------------------------------------------------------------ model


def stack(*layers):
    return nn.Sequential(nn.Linear(4, 6), *layers, nn.Linear(6, 3)).double()


@pytest.mark.parametrize("probes", KINDS, ids=str)
@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.3), nn.AlphaDropout(0.3), nn.BatchNorm1d(6)],
    ids=lambda layer: type(layer).__name__,
)
def test_random_or_coupling_layers_in_train_mode(layer, probes):
    layer.train()  # parametrised layers are shared between tests
    model = stack(layer)
    assert attach(model, probes=probes).snapshot().step == 0
    lens = attach(model.eval(), probes=probes)
    assert lens.snapshot().step == 0


@pytest.mark.parametrize("strategy", ["parameter-space", "midpoint"])
def test_engines_for_functions_of_single_rows_refuse_them_by_name(strategy):
    for layer in (nn.Dropout(0.3), nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False)):
        with pytest.raises(ModelError, match=rf"1 \({type(layer).__name__}\).*eval\(\)"):
            attach(stack(layer).train(), strategy=strategy)


def test_dropout_that_never_drops_is_accepted():
    attach(stack(nn.Dropout(0.0)).train())


class Functional(nn.Module):
    """Dropout and batch statistics hidden in forward()."""

    def __init__(self, kind):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.kind = kind

    def forward(self, x):
        y = self.layer(x)
        if self.kind == "dropout":
            return functional.dropout(y, 0.5, training=True)
        if self.kind == "noise":
            return y + torch.randn_like(y)
        return y - y.mean(dim=0)


@pytest.mark.parametrize("probes", KINDS, ids=str)
@pytest.mark.parametrize("kind", ["dropout", "noise"])
def test_hidden_randomness_of_evaluation_is_found(kind, probes):
    with pytest.raises(ModelError, match="random"):
        attach(Functional(kind).double(), probes=probes)


def test_hidden_coupling_is_found():
    with pytest.raises(ModelError, match="other rows"):
        attach(Functional("centering").double(), strategy="midpoint")
    lens = attach(Functional("centering").double(), probes=None)
    f = lens.predictions("train")
    assert float(f.mean(dim=0).abs().max()) < 1e-12, "all rows are looked at together"


def test_a_refused_model_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    model = stack(nn.Dropout(0.5))
    torch.random.set_rng_state(state)
    zeros = {"x": torch.zeros(8, 4).double(), "y": torch.zeros(8, 3).double()}
    with pytest.raises(ModelError):
        attach(model, strategy="midpoint", **zeros)
    assert torch.equal(torch.random.get_rng_state(), state)


class Returns(nn.Module):
    def __init__(self, pick):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.pick = pick

    def forward(self, x):
        return self.pick(self.layer(x))


@pytest.mark.parametrize(
    "pick",
    [lambda y: (y, y), lambda y: {"logits": y}, lambda y: y.sum(), lambda y: y[:1], lambda y: None],
    ids=["tuple", "dict", "scalar", "too few rows", "None"],
)
def test_outputs_that_are_not_one_tensor_with_a_row_for_each_input(pick):
    with pytest.raises(ModelError, match="rows"):
        attach(Returns(pick).double())


def test_something_that_is_not_a_module():
    parameter = nn.Parameter(torch.ones(3).double())
    with pytest.raises(ModelError, match="function"):
        TelescopeLens(
            lambda x: x @ parameter,
            SGD([parameter], lr=0.1),
            MSE,
            torch.ones(4, 3).double(),
            torch.ones(4).double(),
        )


def test_parameters_that_the_optimizer_does_not_hold():
    other = nn.Linear(4, 3).double()
    with pytest.raises(ConfigurationError, match="optimizer holds none"):
        attach(optimizer=SGD(other.parameters(), lr=0.1))
    frozen = nn.Linear(4, 3).double().requires_grad_(False)
    with pytest.raises(ConfigurationError, match="trainable"):
        attach(frozen, optimizer=SGD(frozen.parameters(), lr=0.1))


# -------------------------------------------------------------------------- optimizer


class MySGD(SGD):
    """A subclass may do anything, so it has no rule."""


@pytest.mark.parametrize("probes", [1, 4, "exact"], ids=str)
@pytest.mark.parametrize("optimizer", [torch.optim.Rprop, torch.optim.LBFGS, MySGD])
def test_an_unknown_optimizer_with_probes(optimizer, probes):
    pattern = rf"{optimizer.__name__}.*Adam, AdamW, .*SGD.*probes=None.*register"
    with pytest.raises(UnsupportedOptimizerError, match=pattern):
        attach(optimizer=optimizer, probes=probes)


@pytest.mark.parametrize("optimizer", [torch.optim.Rprop, torch.optim.Adafactor, MySGD])
def test_an_unknown_optimizer_without_probes_gives_right_predictions(optimizer):
    training = Scenario("random-features-3").start()
    training.optimizer = optimizer(training.model.parameters(), lr=0.01)
    lens = TelescopeLens(
        training.model,
        training.optimizer,
        training.loss,
        training.train_inputs,
        training.train_targets,
        training.eval_sets,
        probes=None,
        stride=4,
    )
    training.run(lens)
    record = lens.snapshot().to_record()
    assert record["test/approximation_error"] < 1e-12
    assert not [key for key in record if "effective" in key or "freedom" in key]


def test_an_optimizer_with_a_closure_without_probes():
    training = Scenario("random-features", steps=3).start()
    model, x, y = training.model, training.train_inputs, training.train_targets
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    lens = TelescopeLens(model, optimizer, MSE, x, y, probes=None, stride=2)

    def closure():
        optimizer.zero_grad()
        loss = MSE(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        with lens.step(torch.arange(8)):
            optimizer.step(closure)
    assert lens.snapshot().to_record()["train/approximation_error"] < 1e-12


# --------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("order", [0, 3, -1, "2", None, True, 1.5]),
        ("stride", [0, -1, 2.5, "10", None, True]),
        ("probes", [0, -3, 1.5, "all", True, 25, 1000]),
        ("deflate", [-1, 0.5, "8", None, True]),
        ("chunk_size", [0, -5, 2.0, "all", True]),
        ("strategy", ["fast", None, 3]),
        ("form", ["dense", None]),
        ("seed", [1.5, "zero", None]),
    ],
)
def test_settings_out_of_range(setting, values):
    for value in values:
        with pytest.raises(ConfigurationError, match=setting) as caught:
            attach(**{setting: value})
        assert repr(value) in str(caught.value), "the message shows the value given"


@pytest.mark.parametrize(
    "replaced",
    [
        {"optimizer": Adam},
        {"optimizer": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.1)},
        {"optimizer": lambda p: SGD(p, lr=0.1, weight_decay=0.1)},
        {"optimizer": lambda p: SGD(p, lr=0.1, maximize=True)},
        {"loss": nn.HuberLoss()},
        {"loss": nn.CrossEntropyLoss()},
    ],
    ids=["adam", "dampening", "decay", "maximize", "huber", "cross-entropy"],
)
def test_function_space_where_it_does_not_apply(replaced):
    model = nn.Linear(4, 3).double()
    make = replaced.get("optimizer", lambda p: SGD(p, lr=0.1))
    optimizer = make(model.parameters())
    with pytest.raises(ConfigurationError, match=r"function-space.*plain SGD"):
        attach(model, **{**replaced, "optimizer": optimizer, "strategy": "function-space"})


# ----------------------------------------------------------------------------- memory


@pytest.mark.parametrize("strategy", ["parameter-space", "auto"])
@pytest.mark.parametrize("loss", [MSE, nn.CrossEntropyLoss()], ids=["mse", "cross-entropy"])
def test_an_exact_smoother_that_does_not_fit(monkeypatch, strategy, loss):
    available = 2_000_000
    monkeypatch.setattr(
        memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=available)
    )
    model = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3)).double()
    things = {"x": rows(200), "y": rows(200, 3), "loss": loss, "strategy": strategy}
    with pytest.raises(MemoryBudgetError, match="exact") as caught:
        attach(model, **things, probes="exact")
    message = str(caught.value)
    numbers = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) bytes", message)]
    assert numbers[0] > available
    fitting = int(re.search(r"probes=(\d+) would fit", message)[1])
    assert 1 <= fitting < 600
    attach(model, **things, probes=fitting)  # what the message promises
    with pytest.raises(MemoryBudgetError):
        attach(model, **things, probes=min(600, 2 * fitting + 4))


def test_a_smoother_that_fits_is_not_refused(monkeypatch):
    monkeypatch.setattr(
        memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=10**8)
    )
    attach(probes="exact")
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1))
    attach(probes=None)  # predictions need no smoother


# ------------------------------------------------------------------------------ steps


@pytest.mark.parametrize("probes", KINDS, ids=str)
@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([0, 8]),
        torch.tensor([-1, 2]),
        torch.tensor([], dtype=torch.int64),
        torch.tensor([0.0, 1.0]),
        torch.tensor([True] * 8),
        torch.tensor([[0, 1]]),
        torch.tensor(3),
        torch.tensor([0, 1], dtype=torch.int32),
        [0, 1],
        slice(0, 2),
    ],
    ids=lambda index: str(index).replace("\n", ""),
)
def test_an_index_that_is_no_vector_of_positions(index, probes):
    lens = attach(probes=probes)
    entered = False
    with pytest.raises(ShapeError, match=r"positions"), lens.step(index):
        entered = True
    assert not entered, "the refusal comes before the parameters move"
    assert lens.steps == 0


def test_only_predictions_need_no_positions():
    training = Scenario("mlp-vector", "sgd", "mse").start()
    x, y = training.train_inputs, training.train_targets
    lens = attach(training.model, optimizer=training.optimizer, x=x, y=y, probes=4)
    training.loss(training.model(x), y).backward()
    before = [p.clone() for p in training.model.parameters()]
    refused = pytest.raises(ConfigurationError, match="was given no rows, and none were drawn")
    with refused, lens.step():
        training.optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))
    with attach(probes=None).step():
        pass


@pytest.mark.parametrize(("count", "probes"), [(0, 4), (2, 4), (0, "exact")])
def test_not_exactly_one_optimizer_step(count, probes):
    training = Scenario("mlp-vector", "sgd", "mse").start()
    lens = attach(
        training.model,
        optimizer=training.optimizer,
        x=training.train_inputs,
        y=training.train_targets,
        probes=probes,
    )
    training.loss(training.model(training.train_inputs), training.train_targets).backward()

    def steps():
        with lens.step(torch.arange(8)):
            for _ in range(count):
                training.optimizer.step()

    with pytest.raises(TrainingMismatchError, match=f"ran {count} times.*once"):
        steps()


def test_a_lens_that_lost_track_refuses_to_go_on():
    training = Scenario("mlp-vector", "sgd", "mse").start()
    model, x, y = training.model, training.train_inputs, training.train_targets
    lens = attach(model, optimizer=training.optimizer, x=x, y=y)

    def interrupted():
        with lens.step(torch.arange(8)):
            training.loss(model(x), y).backward()
            training.optimizer.step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(TrainingMismatchError, match="lost track"), lens.step(torch.arange(8)):
        pass


@pytest.mark.parametrize("given", ["inputs", "targets"])
def test_batches_given_with_the_wrong_number_of_rows(given):
    lens = attach()
    values = {"inputs": rows(3), "targets": rows(3, 3)}[given]
    with (
        pytest.raises((ConfigurationError, ShapeError), match=f"3 {given}.*2 positions"),
        lens.step(torch.tensor([0, 1]), **{given: values}),
    ):
        pass


def test_every_refusal_is_an_error_of_the_library_and_a_familiar_one():
    for kind, familiar in (
        (ConfigurationError, ValueError),
        (ModelError, ValueError),
        (LossError, ValueError),
        (ShapeError, ValueError),
        (UnsupportedOptimizerError, TypeError),
        (MemoryBudgetError, MemoryError),
        (NonFiniteError, ArithmeticError),
        (TrainingMismatchError, RuntimeError),
    ):
        assert issubclass(kind, TelescopeError)
        assert issubclass(kind, familiar)
