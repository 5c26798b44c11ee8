"""What the lens believes about a loss: checked at attach, and again on every batch."""

import pytest
import torch
from torch import nn

from support.losses import (
    KINKED,
    QUADRATIC,
    SCALES,
    SMOOTH,
    WEIGHTS,
    centred,
    correlated,
    dense,
    draw,
    half_sum,
    log_cosh,
    mse,
    name,
    one_rare_kink,
    pair,
    pinball,
    scaled_targets,
    squared_insensitive,
    weighted,
)
from telescope_core.errors import LossError, NonFiniteError
from telescope_core.losses.gradient import LossGradient

# ----------------------------------------------------------------- derivatives


@pytest.mark.parametrize("loss", [*QUADRATIC, *SMOOTH, nn.HuberLoss(), pinball], ids=name)
def test_derivatives_equal_double_backward(loss):
    f, y = pair(5)
    s, v = draw(5, 3, 4, seed=3), draw(5, 3, 4, seed=4)
    gradient = LossGradient(loss, f, y)
    g, along_f, along_y = dense(loss, f, y)
    torch.testing.assert_close(gradient.gradient(f, y), g)
    expected = along_f @ s.reshape(15, 4) + along_y @ v.reshape(15, 4)
    torch.testing.assert_close(gradient.derivative(f, y, s, v).reshape(15, 4), expected)


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, upstream):
        return 3 * upstream * ctx.saved_tensors[0] ** 2


def test_operations_of_ones_own_are_followed():
    f, y = pair(5)
    s, v = draw(5, 3, 4, seed=3), draw(5, 3, 4, seed=4)
    found = LossGradient(lambda f, y: Cubed.apply(f - y).sum(), f, y).derivative(f, y, s, v)
    torch.testing.assert_close(found, 6 * (f - y)[..., None] * (s - v))


@pytest.mark.parametrize("loss", QUADRATIC, ids=name)
def test_the_affine_derivative_gives_the_gradient_at_predictions(loss):
    f, y = pair(5)
    columns, labels = draw(5, 3, 4, seed=3), draw(5, 3, 4, seed=4)
    found = LossGradient(loss, f, y).affine_derivative(f, y, columns, labels, 2)
    g, along_f, along_y = dense(loss, columns[..., 3], labels[..., 3])
    torch.testing.assert_close(found[..., 3], g)
    direction = along_f @ columns[..., 0].flatten() + along_y @ labels[..., 0].flatten()
    torch.testing.assert_close(found[..., 0].flatten(), direction)


# ------------------------------------------------------------------ is_quadratic


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [1, 2, 12, 300])
@pytest.mark.parametrize("loss", QUADRATIC, ids=name)
def test_squared_losses_are_quadratic(loss, rows, dtype):
    assert LossGradient(loss, *pair(rows, dtype=dtype)).is_quadratic


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [1, 12])
@pytest.mark.parametrize("loss", KINKED + SMOOTH, ids=name)
def test_other_losses_are_not(loss, rows, dtype):
    gradient = LossGradient(loss, *pair(rows, dtype=dtype))
    assert not gradient.is_quadratic
    assert gradient.scale(pair(rows, dtype=dtype)[1]) is None


@pytest.mark.parametrize("loss", KINKED, ids=name)
def test_kinks_are_seen_without_residuals(loss):
    y = pair()[1]
    assert not LossGradient(loss, y.clone(), y).is_quadratic


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("loss", "quadratic"), [(mse, True), (nn.HuberLoss(), False), (nn.L1Loss(), False)]
)
def test_the_size_of_the_data_does_not_matter(loss, quadratic, size):
    f, y = pair()
    assert LossGradient(loss, size * f, size * y).is_quadratic is quadratic


@pytest.mark.parametrize(
    "loss",
    [
        nn.BCELoss(),
        lambda f, y: -(y * f.log() + (1 - y) * (1 - f).log()).mean(),
        lambda f, y: ((f.log() - y) ** 2).mean(),
        lambda f, y: ((f.sqrt() - y) ** 2).mean(),
        nn.PoissonNLLLoss(log_input=False),
    ],
)
def test_losses_on_a_part_of_the_space_are_not_quadratic_and_do_not_raise(loss):
    f, y = pair()
    gradient = LossGradient(loss, torch.sigmoid(f), (y > 0).double())
    assert not gradient.is_quadratic
    gradient.check(torch.sigmoid(f), (y > 0).double())


# ------------------------------------------------------------------------- scale


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1), (7,), (7, 3), (4, 2, 3)], ids=str)
@pytest.mark.parametrize("loss", SCALES, ids=name)
def test_the_scale_is_that_of_the_residual(loss, shape):
    f, y = draw(*shape, seed=1), draw(*shape, seed=2)
    gradient = LossGradient(loss, f, y)
    expected = SCALES[loss](len(f), f[0].numel())
    assert gradient.scale(y) == pytest.approx(expected, rel=1e-13)
    smaller = draw(max(1, len(y) - 1), *shape[1:], seed=5)
    expected = SCALES[loss](len(smaller), f[0].numel())
    assert gradient.scale(smaller) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("loss", [weighted, centred, correlated, scaled_targets], ids=name)
def test_other_quadratic_losses_have_no_scale(loss):
    f, y = pair()
    assert LossGradient(loss, f, y).scale(y) is None


def test_two_weights_are_told_apart_where_the_second_residual_vanishes():
    f, y = pair()
    f[:, 1] = y[:, 1]
    assert LossGradient(weighted, f, y).scale(y) is None


def test_one_point_whose_gradient_is_not_its_residual():
    f, y = pair(1, 1)
    gradient = LossGradient(scaled_targets, f, y)
    assert gradient.is_quadratic
    assert gradient.scale(y) is None


def test_targets_of_another_shape_couple_the_rows():
    def broadcast(f, y):
        return ((f - y[None, :]) ** 2).mean()

    f, y = draw(6, 1), draw(6)
    gradient = LossGradient(broadcast, f, y)
    assert gradient.is_quadratic
    assert gradient.scale(y) is None


def test_an_annealed_loss_is_followed():
    class Annealed(nn.Module):
        weight = 1.0

        def forward(self, f, y):
            return self.weight * half_sum(f, y)

    loss = Annealed()
    f, y = pair(4)
    gradient = LossGradient(loss, f, y)
    for step in range(5):
        loss.weight = 0.8**step
        assert gradient.scale(y) == pytest.approx(loss.weight / 4, rel=1e-13)
    loss.weight = 0.0
    assert gradient.scale(y) == 0


def test_the_scale_is_the_same_float_for_rows_in_another_order():
    f, y = pair(50)
    gradient = LossGradient(mse, f, y)
    generator = torch.Generator().manual_seed(0)
    orders = (torch.randperm(50, generator=generator) for _ in range(20))
    assert len({gradient.scale(y[order]) for order in orders}) == 1


def test_a_loss_that_becomes_another_has_no_scale():
    loss = nn.HuberLoss(delta=1e30)  # nothing but a squared loss at any size of the data
    f, y = pair()
    gradient = LossGradient(loss, f, y)
    assert gradient.is_quadratic
    assert gradient.scale(y) is not None
    loss.delta = 1.0
    assert gradient.scale(y) is None


# ------------------------------------------------------------------------- check


def test_check_accepts_what_attach_saw():
    f, y = pair()
    for loss in (*QUADRATIC, *SMOOTH, *KINKED):
        gradient = LossGradient(loss, f, y)
        for rows in (1, 5, 12):
            gradient.check(f[:rows], y[:rows])


class Switched(nn.Module):
    """One loss at attach, another one from then on."""

    def __init__(self, before, after):
        super().__init__()
        self.before, self.after = before, after
        self.switched = False

    def forward(self, f, y):
        return (self.after if self.switched else self.before)(f, y)


@pytest.mark.parametrize(
    "after",
    [nn.L1Loss(), nn.HuberLoss(), pinball, log_cosh, squared_insensitive, one_rare_kink],
    ids=name,
)
@pytest.mark.parametrize("before", [mse, weighted], ids=name)
def test_a_quadratic_loss_that_is_none_any_more(before, after):
    f, y = pair()
    loss = Switched(before, after)
    gradient = LossGradient(loss, f, y)
    loss.switched = True
    with pytest.raises(LossError, match=r"quadratic.*12 rows"):
        gradient.check(f, y)


def test_a_quadratic_loss_that_becomes_another_quadratic_one_is_followed():
    f, y = pair()
    loss = Switched(mse, weighted)
    gradient = LossGradient(loss, f, y)
    loss.switched = True
    gradient.check(f, y)
    s = draw(12, 3, 2)
    expected = 2 * WEIGHTS[:, None] * s / 36
    torch.testing.assert_close(gradient.derivative(f, y, s, torch.zeros_like(s)), expected)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda f, y: (f - y) ** 2, r"\(12, 3\).*scalar"),
        (lambda f, y: mse(f, y).item(), "float.*scalar"),
        (lambda f, y: mse(f, y) * float("nan"), "nan.*finite"),
        (lambda f, y: mse(f, y) / 0, "inf.*finite"),
        (lambda f, y: f @ y, r"failed.*\(12, 3\)"),
    ],
    ids=["rows", "float", "nan", "inf", "fails"],
)
def test_a_loss_that_is_no_finite_scalar_any_more(after, message):
    f, y = pair()
    loss = Switched(mse, after)
    gradient = LossGradient(loss, f, y)
    loss.switched = True
    with pytest.raises(LossError, match=message):
        gradient.check(f, y)


@pytest.mark.parametrize("size", [1e200, float("inf"), float("nan")])
def test_outputs_that_have_diverged_are_not_blamed_on_the_loss(size):
    f, y = pair()
    gradient = LossGradient(mse, f, y)
    with pytest.raises(NonFiniteError, match="diverged"):
        gradient.check(size * f, y)
