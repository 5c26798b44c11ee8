"""Inputs, targets, losses and values that the lens cannot follow are refused before training."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from support.small_lens import KINDS, attach, rows
from telescope_core.errors import (
    ConfigurationError,
    LossError,
    NonFiniteError,
    ShapeError,
    TelescopeError,
)
from telescope_core.testing import Scenario


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# --------------------------------------------------------------------- inputs, targets


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
