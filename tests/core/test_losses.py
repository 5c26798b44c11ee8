"""What the lens believes about a loss: checked at attach, and again on every batch."""

import copy
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from telescope_core.errors import LossError, NonFiniteError
from telescope_core.examined_rows import examined_rows
from telescope_core.losses import LossGradient, check_scalar, leaves_of

WEIGHTS = torch.tensor([1.0, 10.0, 1.0])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pair(rows=12, outputs=3, dtype=torch.float64):
    return draw(rows, outputs, seed=1, dtype=dtype), draw(rows, outputs, seed=2, dtype=dtype)


def mse(f, y):
    return ((f - y) ** 2).mean()


def half_sum(f, y):
    return 0.5 * ((f - y) ** 2).sum() / len(f)


def expanded(f, y):
    return (f * f - 2 * f * y + y * y).mean()


def in_place(f, y):
    return f.sub_(y).pow_(2).mean()


def in_place_on_targets(f, y):
    return y.neg_().add_(f).pow(2).mean()


def weighted(f, y):
    return (WEIGHTS.to(f.dtype) * (f - y) ** 2).mean()


def centred(f, y):
    r = f - y
    return ((r - r.mean()) ** 2).mean()


def correlated(f, y):
    r = f - y
    return (r @ torch.tensor([[2.0, 1, 0], [1, 2, 0], [0, 0, 1]], dtype=f.dtype) * r).sum()


def scaled_targets(f, y):
    return ((f - 2 * y - 1) ** 2).mean()


def pinball(f, y):
    return torch.maximum(0.9 * (y - f), 0.1 * (f - y)).mean()


def insensitive(f, y):
    return functional.relu((f - y).abs() - 0.1).mean()


def squared_insensitive(f, y):
    return functional.relu((f - y).abs() - 0.1).square().mean()


def log_cosh(f, y):
    r = f - y
    return (r + functional.softplus(-2 * r)).mean()


def clamped(f, y):
    return ((f - y).clamp(-3, 3) ** 2).mean()


def asymmetric(f, y):
    r = f - y
    return torch.where(r > 0, 2 * r**2, r**2).mean()


def one_rare_kink(f, y):
    r = f - y
    return (r[:, :2] ** 2).mean() + functional.huber_loss(f[:, 2], y[:, 2], delta=40.0)


def relative(f, y):
    return (((f - y) / y) ** 2).mean()


def log_targets(f, y):
    return ((f.abs().log() - y) ** 2).mean()


SCALES = {
    mse: lambda rows, k: 2 / (rows * k),
    nn.MSELoss(): lambda rows, k: 2 / (rows * k),
    nn.MSELoss(reduction="sum"): lambda rows, k: 2.0,
    half_sum: lambda rows, k: 1 / rows,
    expanded: lambda rows, k: 2 / (rows * k),
    in_place: lambda rows, k: 2 / (rows * k),
    in_place_on_targets: lambda rows, k: 2 / (rows * k),
}
QUADRATIC = [*SCALES, weighted, centred, correlated, scaled_targets]
SMOOTH = [log_cosh, nn.BCEWithLogitsLoss(), nn.PoissonNLLLoss(), relative, log_targets]
KINKED = [
    nn.L1Loss(),
    nn.HuberLoss(),
    nn.HuberLoss(delta=1e-6),
    nn.HuberLoss(delta=1e4),
    nn.SmoothL1Loss(beta=50.0),
    pinball,
    insensitive,
    squared_insensitive,
    clamped,
    asymmetric,
    one_rare_kink,
    nn.HingeEmbeddingLoss(),
    lambda f, y: functional.relu(1 - f * y).mean(),
    lambda f, y: functional.relu(1 - f * y).square().mean(),
]


def name(loss):
    return getattr(loss, "__name__", None) or repr(loss)


def dense(loss, f, y):
    """(g, ∂g/∂f, ∂g/∂Y), entry by entry, by double backward."""
    f, y = f.clone().requires_grad_(), y.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(f.clone(), y.clone()), f, create_graph=True)
    rows = []
    for entry in g.flatten():
        pair = (None, None)
        if entry.requires_grad:
            pair = torch.autograd.grad(entry, (f, y), retain_graph=True, allow_unused=True)
        rows.append([torch.zeros(f.numel()).to(f) if d is None else d.flatten() for d in pair])
    along_f, along_y = (torch.stack(column) for column in zip(*rows, strict=True))
    return g.detach(), along_f, along_y


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
