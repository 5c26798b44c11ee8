"""Class indices as labels: derivatives with respect to them, also of rows that are ignored."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.class_losses import (
    CLASSES,
    OWN_EXTENSION,
    POINTWISE,
    by_classes,
    classes,
    draw,
    gradient_at,
    language_model,
    pixelwise,
    tokens,
)
from telescope_core.errors import LossError, ShapeError
from telescope_core.losses.gradient import LossGradient


@pytest.mark.parametrize("loss", POINTWISE)
def test_other_losses_extend_linearly(loss):
    f, y, V = draw(6, CLASSES), classes(6), draw(6, CLASSES, 5, seed=1)
    gradient = LossGradient(loss, f, y)
    assert gradient.labels.extends_linearly
    each = [gradient_at(loss, f, torch.full_like(y, c)) for c in range(CLASSES)]
    expected = sum(V[:, None, c] * each[c][..., None] for c in range(CLASSES))
    found = gradient.derivative(f, y, torch.zeros_like(V), V)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("loss", OWN_EXTENSION, ids=repr)
def test_losses_of_probabilities_use_their_own_extension(loss):
    f, y, V = draw(6, CLASSES), classes(6), draw(6, CLASSES, 5, seed=1)
    gradient = LossGradient(loss, f, y)
    assert not gradient.labels.extends_linearly
    weights = functional.one_hot(y, CLASSES).double()
    h = 1e-6
    expected = torch.stack(
        [
            (gradient_at(loss, f, weights + h * v) - gradient_at(loss, f, weights - h * v))
            / (2 * h)
            for v in V.unbind(-1)
        ],
        dim=-1,
    )
    found = gradient.derivative(f, y, torch.zeros_like(V), V)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("positions", [3, CLASSES, 5])
@pytest.mark.parametrize(
    ("loss", "class_first"),
    [
        (pixelwise, True),
        (nn.CrossEntropyLoss(), True),
        (tokens, False),
        (lambda f, y: functional.cross_entropy(f.transpose(1, 2), y), False),
        (lambda f, y: functional.cross_entropy(f.flatten(0, 1), y.flatten()), False),
    ],
    ids=["pixels", "pixels by torch", "tokens", "tokens by torch", "flattened tokens"],
)
def test_positions_in_either_layout(loss, class_first, positions):
    f, y = draw(3, positions, CLASSES), classes(3, positions)
    f = f.transpose(1, 2).contiguous() if class_first else f
    V = draw(3, positions * CLASSES, 2, seed=1)
    labels = LossGradient(loss, f, y).labels
    by_class = V.reshape(3, CLASSES, positions, 2) if class_first else None
    by_label = V.reshape(3, positions, CLASSES, 2) if by_class is None else by_class.transpose(1, 2)
    h = 1e-6

    def reference(v):
        """Cross-entropy against weights by position, of outputs by position."""
        outputs = (f.transpose(1, 2) if class_first else f).clone().requires_grad_()
        value = -(v * outputs.log_softmax(-1)).sum() / y.numel()
        g = torch.autograd.grad(value, outputs)[0]
        return g.transpose(1, 2) if class_first else g

    weights = functional.one_hot(y, CLASSES).double()
    expected = torch.stack(
        [
            (reference(weights + h * v) - reference(weights - h * v)) / (2 * h)
            for v in by_label.unbind(-1)
        ],
        dim=-1,
    )
    found = labels.mixed_derivative(f, y, V)
    torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=1e-7, atol=1e-9)
    one_hot = weights.transpose(1, 2) if class_first else weights
    torch.testing.assert_close(labels.flat(y), one_hot.reshape(3, -1))


@pytest.mark.parametrize("shift", [1, 2])
@pytest.mark.parametrize("positions", [CLASSES, 5])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [False, True])
def test_the_shift_of_a_language_model(shift, positions, reduction, ignored):
    f, y = draw(3, positions, CLASSES), classes(3, positions)
    if ignored:
        y[0, :2] = y[2, positions - 1] = -100
    loss = language_model(reduction, shift)
    gradient = LossGradient(loss, f, y)
    labels = gradient.labels
    assert labels.shift == shift
    gradient.check(f.flatten(1), y)

    # Label (t, c) of the outputs belongs to target t + shift.
    by_target = by_classes(loss, f, y).reshape(-1, 3, positions, CLASSES)
    at_outputs = torch.zeros_like(by_target)
    at_outputs[:, :, :-shift] = by_target[:, :, shift:]
    V = draw(3, positions * CLASSES, 2, seed=1)
    expected = at_outputs.flatten(1) @ V.flatten(0, 1)
    found = labels.mixed_derivative(f, y, V)
    torch.testing.assert_close(found.reshape(expected.shape), expected)

    # Its own labels give g itself.
    own = labels.mixed_derivative(f, y, labels.flat(y)[..., None])[..., 0]
    torch.testing.assert_close(own, gradient.gradient(f.flatten(1), y))


def test_a_shift_in_the_other_direction():
    f, y = draw(3, 5, CLASSES), classes(3, 5)

    def loss(f, y):
        return functional.cross_entropy(f[:, 1:].flatten(0, 1), y[:, :-1].flatten())

    gradient = LossGradient(loss, f, y)
    assert gradient.labels.shift == -1
    own = gradient.labels.mixed_derivative(f, y, gradient.labels.flat(y)[..., None])[..., 0]
    torch.testing.assert_close(own, gradient.gradient(f.flatten(1), y))


# ------------------------------------------------------------------------- ignored


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("index", [-100, -1, 99])
@pytest.mark.parametrize("at", [0, 299])
def test_ignored_rows_contribute_nothing(reduction, index, at):
    f, y = draw(300, CLASSES), classes(300)
    y[at] = index
    loss = nn.CrossEntropyLoss(reduction=reduction, ignore_index=index)
    gradient = LossGradient(loss, f, y)
    gradient.check(f, y)
    assert gradient.labels.flat(y)[at].eq(0).all()
    V = draw(300, CLASSES, 2, seed=1)
    count = 299 if reduction == "mean" else 1
    p = f.softmax(1)[..., None]
    expected = (p * V.sum(1, keepdim=True) - V) / count
    expected[at] = 0
    found = gradient.derivative(f, y, torch.zeros_like(V), V)
    torch.testing.assert_close(found, expected)
    # Also on batches without ignored rows.
    batch = torch.arange(10, 20)
    gradient.check(f[batch], y[batch])
    count = 10 if reduction == "mean" else 1
    found = gradient.derivative(f[batch], y[batch], 0 * V[batch], V[batch])
    expected = (p * V.sum(1, keepdim=True) - V)[batch] / count
    torch.testing.assert_close(found, expected)


def test_an_index_out_of_range_that_attach_did_not_see():
    f, y = draw(8, CLASSES), classes(8)
    gradient = LossGradient(nn.CrossEntropyLoss(), f, y)
    for index in (-100, CLASSES):
        other = y.clone()
        other[3] = index
        with pytest.raises((ShapeError, LossError), match=rf"{index}"):
            gradient.check(f, other)
        with pytest.raises(ShapeError, match=rf"{index}.*0…3"):
            gradient.labels.flat(other)


def test_a_batch_of_which_every_row_is_ignored():
    f, y = draw(8, CLASSES), classes(8)
    y[:4] = -100
    gradient = LossGradient(nn.CrossEntropyLoss(), f, y)
    with pytest.raises(LossError, match=r"nan.*ignored"):
        gradient.check(f[:4], y[:4])


def test_negative_indices_that_count_from_the_end():
    y = classes(20)
    y[y == 3] = -1

    def from_the_end(f, y):
        return -f.log_softmax(1)[torch.arange(len(f)), y].mean()

    with pytest.raises(ShapeError, match=r"-1.*0…3"):
        LossGradient(from_the_end, draw(20, CLASSES), y)


@pytest.mark.parametrize("bad", [CLASSES, -1, 1_000_000])
@pytest.mark.parametrize("row", [0, 150, 299])
def test_indices_out_of_range(bad, row):
    y = classes(300)
    y[row] = bad
    with pytest.raises(LossError, match=rf"{bad} is out of bounds"):
        LossGradient(nn.CrossEntropyLoss(), draw(300, CLASSES), y)
