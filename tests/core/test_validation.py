"""What the lens cannot follow is refused with one clear error, before training starts."""

import itertools
import re
import types

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam

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
from telescope_core.network import checks as _validation
from telescope_core.testing import Scenario

MSE = nn.MSELoss()
KINDS = [None, 4, "exact"]


def attach(model=None, *, optimizer=None, loss=MSE, x=None, y=None, sets=None, **options):
    """A lens over a small model in double precision, one thing of it replaced."""
    if model is None:
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(8, 4, dtype=torch.float64) if x is None else x
    y = torch.randn(8, 3, dtype=torch.float64) if y is None else y
    if optimizer is None:
        optimizer = SGD(model.parameters(), lr=0.1)
    elif isinstance(optimizer, type):
        optimizer = optimizer(model.parameters(), lr=0.1)
    return TelescopeLens(model, optimizer, loss, x, y, sets, **{"probes": 4, **options})


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
    with pytest.raises(ModelError, match=rf"1 \({type(layer).__name__}\).*eval\(\)"):
        attach(model, probes=probes)
    lens = attach(model.eval(), probes=probes)
    assert lens.snapshot().step == 0


def test_batch_norm_without_running_statistics_couples_rows_in_eval_mode_too():
    model = stack(nn.BatchNorm1d(6, track_running_stats=False)).eval()
    with pytest.raises(ModelError, match="batch"):
        attach(model)


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
@pytest.mark.parametrize(
    ("kind", "message"),
    [("dropout", "random"), ("noise", "random"), ("centering", "other rows")],
)
def test_hidden_randomness_and_coupling_are_found(kind, message, probes):
    with pytest.raises(ModelError, match=message):
        attach(Functional(kind).double(), probes=probes)


def test_a_refused_model_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    model = stack(nn.Dropout(0.5))
    torch.random.set_rng_state(state)
    with pytest.raises(ModelError):
        attach(model, x=torch.zeros(8, 4).double(), y=torch.zeros(8, 3).double())
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


# --------------------------------------------------------------------- inputs, targets


def rows(n=8, d=4):
    return torch.randn(n, d, dtype=torch.float64)


@pytest.mark.parametrize("probes", KINDS, ids=str)
@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"y": rows(7, 3)}, r"\(7, 3\).*8 training inputs"),
        ({"y": rows(9, 3)}, r"\(9, 3\).*8 training inputs"),
        ({"y": torch.tensor(1.0).double()}, r"\(\).*8 training inputs"),
        ({"y": rows(8, 3).float()}, r"float32.*float64"),
        ({"y": rows(8, 3).to("meta")}, r"meta.*cpu"),
        ({"y": [[0.0, 1.0, 2.0]] * 8}, "tensor.*list"),
        ({"x": rows().float()}, r"train inputs.*float32.*float64"),
        ({"x": rows().to("meta")}, r"train inputs.*meta.*cpu"),
        ({"x": rows(0), "y": rows(0, 3)}, r"train inputs.*at least one row"),
        ({"sets": {"test": rows().float()}}, r"test inputs.*float32.*float64"),
        ({"sets": {"test": rows().to("meta")}}, r"test inputs.*meta.*cpu"),
        ({"sets": {"test": rows(0)}}, r"test inputs.*at least one row"),
        ({"sets": {"test": 3}}, r"test inputs.*int"),
    ],
    ids=lambda value: None if isinstance(value, str) else "+".join(value),
)
def test_inputs_and_targets_of_the_wrong_length_dtype_or_device(replaced, message, probes):
    with pytest.raises(ShapeError, match=message):
        attach(**replaced, probes=probes)


@pytest.mark.parametrize("probes", KINDS, ids=str)
def test_inputs_of_the_wrong_width_name_their_set(probes):
    with pytest.raises(TelescopeError, match="train"):
        attach(x=rows(8, 5), probes=probes)
    with pytest.raises(TelescopeError, match="test"):
        attach(sets={"test": rows(3, 5)}, probes=probes)


def test_targets_of_the_wrong_width():
    with pytest.raises(LossError, match=r"\(\d, 3\).*\(\d, 2\)"):
        attach(y=rows(8, 2), loss=lambda f, y: ((f - y) ** 2).mean())


@pytest.mark.parametrize("probes", [4, "exact"], ids=str)
@pytest.mark.parametrize("shape", [(8, 3), (8, 1)])
def test_integer_targets_that_are_no_class_indices(shape, probes):
    y = torch.zeros(shape, dtype=torch.int64)
    with pytest.raises(ShapeError, match=r"int64.*class indices"):
        attach(y=y, loss=lambda f, y: ((f - y) ** 2).mean(), probes=probes)


@pytest.mark.parametrize("bad", [3, -1])
@pytest.mark.parametrize("row", [0, 7])
def test_class_indices_out_of_range(bad, row):
    y = torch.arange(8) % 3
    y[row] = bad
    with pytest.raises(TelescopeError, match=rf"target|class|{bad}"):
        attach(loss=nn.CrossEntropyLoss(), y=y)


@pytest.mark.parametrize("name", ["train", "", "a/b", 3])
def test_names_of_sets(name):
    with pytest.raises(ConfigurationError, match="eval set"):
        attach(sets={name: rows(2)})


# ------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("probes", KINDS, ids=str)
@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.MSELoss(reduction="none"), r"\(\d, 3\).*scalar"),
        (lambda f, y: ((f - y) ** 2).mean(dim=1), "scalar"),
        (lambda f, y: ((f - y) ** 2).mean().item(), "float.*scalar"),
        (lambda f, y: None, "NoneType.*scalar"),
        (lambda f, y: ((f - y) ** 2).mean().detach(), "differentiable"),
        (lambda f, y: ((f - y[:, :2]) ** 2).mean(), "failed"),
        (lambda f: f.mean(), "failed"),
        (nn.CrossEntropyLoss(weight=torch.ones(2).double()), "failed"),
    ],
    ids=["none", "rows", "float", "None", "detached", "fails", "one argument", "wrong weight"],
)
def test_losses_that_are_not_differentiable_scalars(loss, message, probes):
    with pytest.raises(LossError, match=message):
        attach(loss=loss, probes=probes)


def test_a_loss_of_class_indices_without_a_derivative_in_the_labels():
    y = torch.arange(8) % 3
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double())
    with pytest.raises(LossError, match=r"class indices.*probes=None"):
        attach(loss=weighted, y=y)
    attach(loss=weighted, y=y, probes=None)


def test_a_loss_of_class_indices_need_not_accept_probabilities():
    y = torch.arange(8) % 3

    def picked(f, target):
        return -functional.log_softmax(f, dim=1)[torch.arange(len(f)), target].mean()

    attach(loss=picked, y=y)


# ------------------------------------------------------------------------- non-finite


@pytest.mark.parametrize("probes", KINDS, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("where", "row"),
    [*itertools.product(["train", "test", "targets"], [0, 7]), ("parameters", 0)],
)
def test_values_that_are_not_finite(where, row, bad, probes):
    model = nn.Linear(4, 3).double()
    touched = {"train": rows(), "test": rows(), "targets": rows(8, 3)}
    touched["parameters"] = model.weight.data
    touched[where][row] = bad
    x, y, test = touched["train"], touched["targets"], touched["test"]
    with pytest.raises((NonFiniteError, LossError), match=r"(?i)nan|inf|finite"):
        attach(model, x=x, y=y, sets={"test": test}, probes=probes)


@pytest.mark.parametrize("probes", KINDS, ids=str)
def test_training_that_diverges(probes):
    training = Scenario("mlp-vector", "sgd", "mse", steps=40).start()
    training.optimizer = SGD(training.model.parameters(), lr=1e6)
    lens = attach(
        training.model,
        optimizer=training.optimizer,
        x=training.train_inputs,
        y=training.train_targets,
        probes=probes,
        stride=5,
    )
    with pytest.raises(NonFiniteError, match="diverged"):
        training.run(lens)


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
        {"optimizer": lambda p: SGD(p, lr=0.1, momentum=0.9)},
        {"optimizer": lambda p: SGD(p, lr=0.1, weight_decay=0.1)},
        {"optimizer": lambda p: SGD(p, lr=0.1, maximize=True)},
        {"loss": nn.HuberLoss()},
        {"loss": nn.CrossEntropyLoss()},
    ],
    ids=["adam", "momentum", "decay", "maximize", "huber", "cross-entropy"],
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
        _validation.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=available)
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
        _validation.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=10**8)
    )
    attach(probes="exact")
    monkeypatch.setattr(
        _validation.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1)
    )
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
        None,
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
