"""Losses without a derivative in class indices are refused, at attach and at every batch."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.class_losses import (
    CLASS_WEIGHTS,
    CLASSES,
    OWN_EXTENSION,
    POINTWISE,
    classes,
    draw,
    focal,
    language_model,
    one_hot_mse,
    picked,
)
from telescope_core.errors import LossError, ShapeError
from telescope_core.losses.gradient import LossGradient

# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("first", ["one class", "every class", "balanced"])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
        nn.NLLLoss(weight=CLASS_WEIGHTS),
        nn.CrossEntropyLoss(weight=4 * CLASS_WEIGHTS / CLASS_WEIGHTS.sum()),
        nn.CrossEntropyLoss(ignore_index=2),
        lambda f, y: picked(f[y != 1], y[y != 1]),
    ],
    ids=["weights", "nll", "mean weight 1", "ignored class", "masked class"],
)
def test_means_that_labels_divide_are_refused_whatever_the_first_rows_hold(loss, first):
    y = torch.arange(400) % CLASSES
    if first == "one class":
        y = y.sort().values
    elif first == "every class":
        y = classes(400)
    with pytest.raises(LossError, match=r"divides by.*reduction='mean'.*probes=None"):
        LossGradient(loss, draw(400, CLASSES), y)


def test_weights_are_seen_where_training_holds_one_class_only():
    loss = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS)
    with pytest.raises(LossError, match="class weights"):
        LossGradient(loss, draw(50, CLASSES), torch.zeros(50, dtype=torch.int64))


def dice(f, y):
    p, target = f.softmax(1), functional.one_hot(y, CLASSES)
    return 1 - 2 * (p * target).sum() / (p.square().sum() + target.sum())


def centroids(f, y):
    """Distance to the mean of the point's class."""
    target = functional.one_hot(y, CLASSES).to(f.dtype)
    means = target.T @ f / (target.sum(0)[:, None] + 1)
    return ((f - means[y]) ** 2).mean()


@pytest.mark.parametrize("loss", [centroids, nn.TripletMarginLoss], ids=["centroids", "pairs"])
def test_losses_that_compare_points_are_refused(loss):
    if loss is nn.TripletMarginLoss:

        def loss(f, y):
            same = y[:, None] == y[None, :]
            distance = ((f[:, None] - f[None]) ** 2).sum(-1)
            return torch.where(same, distance, (-distance).exp()).mean()

    with pytest.raises(LossError, match="labels of others"):
        LossGradient(loss, draw(20, CLASSES), classes(20))


def test_several_positions_at_once_are_refused_by_what_they_do():
    next_one, own = language_model(), language_model(shift=2)
    f, y = draw(4, 6, CLASSES), classes(4, 6)
    with pytest.raises(LossError, match=r"other positions.*shift the targets outside") as caught:
        LossGradient(lambda f, y: next_one(f, y) + own(f, y), f, y)
    assert "class weights" not in str(caught.value)


def test_class_weights_in_a_language_model_are_blamed_rightly():
    loss = language_model(weight=CLASS_WEIGHTS)
    with pytest.raises(LossError, match="class weights"):
        LossGradient(loss, draw(6, 5, CLASSES), classes(6, 5))


@pytest.mark.parametrize(
    ("outputs", "targets"), [((8, 3), (8, 3)), ((8, 1), (8, 1)), ((8,), (8,)), ((8, 5, 3), (8, 4))]
)
def test_shapes_that_are_no_class_indices(outputs, targets):
    def loss(f, y):
        return f.square().sum() + y.sum()

    with pytest.raises(ShapeError, match=r"int64.*class indices"):
        LossGradient(loss, draw(*outputs), torch.zeros(targets, dtype=torch.int64))


# --------------------------------------------------------------- check, batch by batch


class Switched(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.before, self.after = before, after
        self.switched = False

    def forward(self, f, y):
        return (self.after if self.switched else self.before)(f, y)


@pytest.mark.parametrize("before", [nn.CrossEntropyLoss(), picked, focal])
@pytest.mark.parametrize(
    "after",
    [
        nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
        nn.CrossEntropyLoss(ignore_index=1),
        centroids,
    ],
    ids=["weights", "ignored class", "centroids"],
)
def test_labels_that_others_depend_on_from_some_step_on(before, after):
    f, y = draw(40, CLASSES), classes(40)
    loss = Switched(before, after)
    gradient = LossGradient(loss, f, y)
    gradient.check(f, y)
    loss.switched = True
    with pytest.raises(LossError, match="class indices"):
        gradient.check(f, y)


def test_label_smoothing_switched_on_is_followed():
    f, y, V = draw(40, CLASSES), classes(40), draw(40, CLASSES, 2, seed=1)
    loss = nn.CrossEntropyLoss()
    gradient = LossGradient(loss, f, y)
    loss.label_smoothing = 0.2
    gradient.check(f, y)
    p = f.softmax(1)[..., None]
    expected = 0.8 * (p * V.sum(1, keepdim=True) - V) / 40
    torch.testing.assert_close(gradient.derivative(f, y, 0 * V, V), expected)


def test_a_shift_that_changes():
    f, y = draw(4, 6, CLASSES), classes(4, 6)
    loss = Switched(language_model(), language_model(shift=2))
    gradient = LossGradient(loss, f, y)
    loss.switched = True
    with pytest.raises(LossError, match="positions"):
        gradient.check(f.flatten(1), y)


@pytest.mark.parametrize("loss", [*OWN_EXTENSION, *POINTWISE])
def test_check_accepts_batches_of_every_size(loss):
    f, y = draw(300, CLASSES), classes(300)
    gradient = LossGradient(loss, f, y)
    for rows in (1, 2, 7, 300):
        gradient.check(f[-rows:], y[-rows:])


def test_probabilities_given_for_a_step():
    f, y, V = draw(6, CLASSES), classes(6), draw(6, CLASSES, 2, seed=1)
    mixed = 0.3 * functional.one_hot(y, CLASSES) + 0.7 * functional.one_hot(y.flip(0), CLASSES)
    gradient = LossGradient(nn.CrossEntropyLoss(), f, y)
    mixed = mixed.double()
    gradient.check(f, mixed)
    torch.testing.assert_close(gradient.labels.flat(mixed), mixed)
    p = f.softmax(1)[..., None]
    expected = (p * V.sum(1, keepdim=True) - V) / 6
    torch.testing.assert_close(gradient.derivative(f, mixed, 0 * V, V), expected)
    with pytest.raises(LossError):
        LossGradient(picked, f, y).derivative(f, mixed, V, V)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_integer_dtypes(dtype):
    f, y, V = draw(6, CLASSES), classes(6), draw(6, CLASSES, 2, seed=1)

    def loss(f, y):
        return picked(f, y.long())

    found = LossGradient(loss, f, y.to(dtype)).derivative(f, y.to(dtype), V, V)
    torch.testing.assert_close(found, LossGradient(picked, f, y).derivative(f, y, V, V))


def test_examining_a_loss_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LossGradient(one_hot_mse, draw(6, CLASSES), classes(6))
