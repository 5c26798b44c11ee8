"""Losses that are refused, and what examining a loss leaves alone."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.losses import KINKED, draw, in_place, in_place_on_targets, mse, name, pair
from telescope_core.errors import LossError
from telescope_core.losses.examined_rows import examined_rows
from telescope_core.losses.gradient import LossGradient, check_scalar, leaves_of

# ------------------------------------------------------------ refusals at attach


def failing(error):
    def loss(f, y):
        raise error

    return loss


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no"),
        ValueError("no"),
        TypeError("no"),
        IndexError("no"),
        NotImplementedError("no"),
        AssertionError("no"),
        KeyError("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_loss_raises_names_shapes_and_dtypes(error):
    f, y = pair()
    match = r"\(12, 3\) torch.float64 and targets \(12, 3\) torch.float64.*no"
    with pytest.raises(LossError, match=match):
        LossGradient(failing(error), f, y)
    with pytest.raises(LossError, match=match):
        check_scalar(failing(error), f, y)


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        return 2 * upstream * ctx.saved_tensors[0]


class RaisesInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, upstream):
        raise ValueError("no way back")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda f, y: OnceDifferentiable.apply(f - y).mean(), "depends on the outputs"),
        (lambda f, y: RaisesInBackward.apply(f - y).mean(), "no way back"),
        (nn.SoftMarginLoss(), "with respect to targets.*soft_margin_loss"),
    ],
    ids=["once differentiable", "backward fails", "soft margin"],
)
def test_losses_without_second_derivatives(loss, message):
    with pytest.raises(LossError, match=message):
        LossGradient(loss, *pair())


def test_multi_margin_is_refused_at_attach():
    with pytest.raises(LossError, match=r"multi_margin_loss.*probes=None"):
        LossGradient(nn.MultiMarginLoss(), draw(12, 3), torch.arange(12) % 3)


class Reversed(torch.autograd.Function):
    """The derivative of its gradient is right, but not that of its value."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, upstream):
        return -upstream * ctx.saved_tensors[0].detach()


HIDDEN = {
    "residual weights": lambda f, y: ((f - y).abs().detach() * (f - y) ** 2).mean(),
    "normalised": lambda f, y: mse(f, y) / mse(f, y).detach(),
    "self-distillation": lambda f, y: ((f - y) * (f - 2 * y).detach()).mean(),
    "custom": lambda f, y: Reversed.apply(f - y).mean(),
    "focal": lambda f, y: (
        (torch.sigmoid(f) - y).detach() ** 2
        * functional.binary_cross_entropy_with_logits(f, y, reduction="none")
    ).mean(),
    "one output": lambda f, y: mse(f[:, 1:], y[:, 1:]) + (f[:, 0] * f[:, 0].detach() ** 2).mean(),
    "targets": lambda f, y: ((y - y.detach() ** 2 + f) ** 2).mean(),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("loss", HIDDEN.values(), ids=HIDDEN)
def test_what_detach_hides_is_refused(loss, dtype):
    with pytest.raises(LossError, match=r"detach\(\)"):
        LossGradient(loss, *pair(40, dtype=dtype))


def test_detached_parts_that_g_does_not_depend_on_are_fine():
    f, y = pair()
    assert LossGradient(lambda f, y: mse(f, y) + mse(f, y).detach(), f, y).is_quadratic


@pytest.mark.parametrize("offset", [0.0, 1e-9, 0.3])
@pytest.mark.parametrize("loss", KINKED, ids=name)
def test_kinks_are_not_taken_for_something_hidden(loss, offset):
    y = draw(40, 3, seed=2)
    LossGradient(loss, y + offset, y)
    LossGradient(loss, torch.zeros_like(y) + offset, y.sign())


def test_a_random_loss_is_refused():
    with pytest.raises(LossError, match="same outputs and targets"):
        LossGradient(lambda f, y: mse(f + torch.randn_like(f), y), *pair())


def test_a_loss_that_counts_its_calls_is_refused():
    calls = []

    def loss(f, y):
        calls.append(None)
        return 0.99 ** len(calls) * mse(f, y)

    with pytest.raises(LossError, match="counters"):
        LossGradient(loss, *pair())


# -------------------------------------------------------------- nothing is touched


@pytest.mark.parametrize("loss", [in_place, in_place_on_targets], ids=name)
def test_losses_that_work_in_place_leave_the_callers_tensors_alone(loss):
    f, y = pair()
    before = f.clone(), y.clone()
    check_scalar(loss, f, y)
    leaves_of(loss, f, y)
    gradient = LossGradient(loss, f, y)
    gradient.check(f, y)
    gradient.scale(y)
    gradient.gradient(f, y)
    gradient.affine_derivative(f, y, draw(12, 3, 3), draw(12, 3, 3), 1)
    assert torch.equal(f, before[0])
    assert torch.equal(y, before[1])


def test_flags_gradients_and_the_random_stream_are_left_alone():
    f, y = pair()
    f.requires_grad_()
    temperature = nn.Parameter(torch.ones(()).double())
    state = torch.random.get_rng_state()
    with torch.no_grad():
        gradient = LossGradient(lambda f, y: mse(f, y * temperature.detach()), f, y)
        gradient.check(f, y)
        leaves_of(lambda f, y: mse(f, y) + temperature, f, y)
        assert not torch.is_grad_enabled()
        assert not gradient.gradient(f, y).requires_grad
    assert f.grad is None
    assert temperature.grad is None
    assert f.requires_grad
    assert not y.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)


# ------------------------------------------------------------ trained parameters


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False)
        self.unused = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, f, y):
        return self.frozen * mse(f * self.log_scale.exp(), y)


def test_trained_parameters_of_a_loss_are_found():
    f, y = pair()
    module = Temperature()
    other = nn.Parameter(torch.ones(3, dtype=torch.float64))

    def penalised(scale, f, y):
        return module(f, y) + scale * other.square().sum()

    for loss, expected in (
        (module, {module.log_scale}),
        (module.forward, {module.log_scale}),
        (functools.partial(penalised, 2.0), {module.log_scale, other}),
        (lambda f, y: other.sum(), {other}),
        (lambda f, y: mse(f, y) * other.detach().sum(), set()),
        (mse, set()),
    ):
        found = leaves_of(loss, f, y)
        assert {id(leaf) for leaf in found} == {id(leaf) for leaf in expected}
        assert len(found) == len(expected)
        assert all(leaf.grad is None for leaf in (*module.parameters(), other))


def test_a_parameter_that_is_the_loss_itself():
    constant = nn.Parameter(torch.ones(()))
    (found,) = leaves_of(lambda f, y: constant, *pair())
    assert found is constant


def test_outputs_and_targets_are_no_trained_parameters():
    f, y = (tensor.requires_grad_() for tensor in pair())
    assert leaves_of(mse, f, y) == []


def test_a_deep_copy_of_a_loss_gradient_is_possible():
    f, y = pair()
    assert copy.deepcopy(LossGradient(nn.MSELoss(), f, y)).scale(y) == pytest.approx(2 / 36)


# ---------------------------------------------------------------- examined rows


def test_the_examined_rows_hold_every_class_however_late():
    targets = torch.zeros(60_000, dtype=torch.int64)
    targets[59_000] = 7
    targets[59_998] = -100
    targets[31] = 3
    rows = examined_rows(targets, 10)
    assert len(rows) <= 256
    assert {31, 59_000, 59_998} <= set(rows.tolist())
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_the_examined_rows_hold_ignored_positions_of_sequences():
    targets = torch.ones(5_000, 20, dtype=torch.int64)
    targets[4_321, 17] = -100
    assert 4_321 in examined_rows(targets, 20 * 5).tolist()


def test_other_targets_are_examined_evenly():
    rows = examined_rows(torch.zeros(60_000, 1), 1)
    assert len(rows) == 256
    assert rows[0] == 0
    assert rows[-1] == 59_999
    assert int(rows.diff().max()) <= 237


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float64], ids=str)
def test_few_rows_are_all_examined(rows, dtype):
    assert examined_rows(torch.arange(rows).to(dtype), 3).tolist() == list(range(rows))


def test_many_outputs_are_examined_on_few_rows():
    assert len(examined_rows(torch.zeros(1_000, dtype=torch.int64), 50_000 * 32)) == 2
    spread = examined_rows(torch.arange(1_000) * 3, 4_096)
    assert 2 <= len(spread) <= 32
