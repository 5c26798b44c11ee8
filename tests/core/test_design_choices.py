"""Momentum, decay, adaptive rates and a sigmoid do what section 5 says, on a nonlinear network.

A run is followed by the lens (first order, every step, exact) and written out beside it as sums
over all past gradients: the weights are typed in here, the kernels dense and between two times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn, optim

from telescope_core.closed_forms import (
    averaging_weights,
    momentum_weights,
    sigmoid_kernel,
    sigmoid_slope,
    unroll,
    unroll_adaptive,
)
from telescope_core.errors import ConfigurationError, ShapeError
from telescope_core.kernels import tangent_kernel
from telescope_core.lens import TelescopeLens
from telescope_core.network.layout import ParameterLayout
from telescope_core.testing import assert_agrees
from telescope_core.testing.dense import dense_jacobian
from telescope_core.update_rules import rule_for

ROWS, TEST, BATCH, STEPS = 9, 5, 4, 11
TOLERANCE = 1e-10


def half_squared(outputs, targets):
    return 0.5 * (outputs[:, 0] - targets).square().mean()


def network(sigmoid=False):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        layers = [nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)]
    return nn.Sequential(*layers, *([nn.Sigmoid()] if sigmoid else [])).double()


@dataclass
class Run:
    """A followed run and what its closed form is made of.

    Attributes:
        model: The trained network.
        optimizer: The optimizer after training.
        lens: The lens after training.
        labels: Y, (n,).
        batches: Positions of every step's batch.
        J: Jacobian of all rows, training rows first, before every step, each (rows, p).
        G: Gradient of every step, (T, p).
        P: Frozen diagonal of every step, (T, p).
        theta: Parameters from step 0 on, (T + 1, p).
        f_0: Initial outputs of all rows.
    """

    model: nn.Module
    optimizer: optim.Optimizer
    lens: TelescopeLens
    labels: torch.Tensor
    batches: list[torch.Tensor]
    J: list[torch.Tensor]
    G: torch.Tensor
    P: torch.Tensor
    theta: torch.Tensor
    f_0: torch.Tensor


def flat(model, of=lambda parameter: parameter):
    return torch.cat([of(p).detach().reshape(-1) for p in model.parameters()]).clone()


def diagonal(model, optimizer):
    """``1/(√(v/(1−β₂ᵗ)) + ε)`` read off Adam's state, or ones."""
    if isinstance(optimizer, optim.SGD):
        return torch.ones_like(flat(model))
    group = optimizer.param_groups[0]

    def inverse(parameter):
        state = optimizer.state[parameter]
        corrected = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
        return 1 / (corrected.sqrt() + group["eps"])

    return flat(model, inverse)


def follow(make, *, sigmoid=False, steps=STEPS, **options):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(ROWS + TEST, 3, generator=generator, dtype=torch.float64)
    y = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    model = network(sigmoid)
    optimizer = make(model.parameters(), **options)
    lens = TelescopeLens(
        model, optimizer, half_squared, x[:ROWS], y, {"test": x[ROWS:]},
        order=1, stride=1, probes="exact",
    )  # fmt: skip
    f_0 = model(x).detach()[:, 0]
    batches, J, G, P, theta = [], [], [], [], [flat(model)]
    for _ in range(steps):
        index = torch.randperm(ROWS, generator=generator)[:BATCH]
        batches.append(index)
        J.append(torch.cat(list(dense_jacobian(model, x).values()), dim=1))
        with lens.step(index):
            optimizer.zero_grad()
            half_squared(model(x[index]), y[index]).backward()
            G.append(flat(model, lambda p: p.grad))
            optimizer.step()
        P.append(diagonal(model, optimizer))
        theta.append(flat(model))
    return Run(
        model, optimizer, lens, y, batches, J, torch.stack(G), torch.stack(P), torch.stack(theta),
        f_0,
    )  # fmt: skip


def closed_form(run, rate, weight, decay=0.0):
    """S and c of all rows: sums over pairs of times, and (1 − γλ)-factors, and nothing else.

    ``ΔS_t = −γ Σ_k w_{t,k} J_{t−1} P_t J_{k−1}(X_B)ᵀ δg_k − γλ J_{t−1} A_{t−1}`` with
    ``A_{t−1} = (1−γλ)^{t−1} A_0 − γ Σ_s (1−γλ)^{t−1−s} P_s Σ_k w_{s,k} J_{k−1}(X_B)ᵀ δg_k``.
    """
    columns = ROWS + 1  # one per label, and the constant
    labels = torch.cat([torch.eye(ROWS), torch.zeros(ROWS, 1)], dim=1).double()
    S = torch.zeros(ROWS + TEST, columns, dtype=torch.float64)
    S[:, -1] = run.f_0
    A_0 = torch.zeros(run.theta.shape[1], columns, dtype=torch.float64)
    A_0[:, -1] = run.theta[0]
    slopes = []
    for t in range(1, len(run.J) + 1):
        index = run.batches[t - 1]
        slopes.append((S[index] - labels[index]) / BATCH)
        past = range(1, t + 1)

        def sum_of_kernels(left, s):
            """Σ_k w_{s,k} J P_s J_{k−1}(X_B)ᵀ δg_k, one kernel between two times each."""
            total = 0
            for k in range(1, s + 1):
                right = run.J[k - 1][run.batches[k - 1]]
                kernel = (left * run.P[s - 1]) @ right.T
                total = total + weight(s, k) * kernel @ slopes[k - 1]
            return total

        left = run.J[t - 1]
        change = -rate * sum_of_kernels(left, t)
        if decay:
            keep = 1 - rate * decay
            change = change - rate * decay * keep ** (t - 1) * left @ A_0
            for s in past[:-1]:
                forgotten = rate * decay * rate * keep ** (t - 1 - s)
                change = change + forgotten * sum_of_kernels(left, s)
        S = S + change
    return S[:, :-1], S[:, -1]


def assert_followed(run, rate, weight, decay=0.0):
    S, c = closed_form(run, rate, weight, decay)
    for name, rows in (("train", slice(0, ROWS)), ("test", slice(ROWS, None))):
        assert_agrees(run.lens.smoother(name), S[rows], tolerance=TOLERANCE, what=f"S, {name}")
        assert_agrees(run.lens.constant(name), c[rows], tolerance=TOLERANCE, what=f"c, {name}")
    assert float(S.abs().max()) > 0.02, "nothing was learned"
    return S, c


def present_only(t, k):
    return 1.0 if t == k else 0.0


def heavy_ball(momentum, dampening=0.0, nesterov=False):
    def weight(t, k):
        value = momentum ** (t - k) * (1.0 if k == 1 else 1 - dampening)
        return momentum * value + present_only(t, k) if nesterov else value

    return weight


def averaged(beta):
    return lambda t, k: (1 - beta) * beta ** (t - k) / (1 - beta**t)


def matrix(weight, steps=STEPS):
    rows = [
        [weight(t, k) if k <= t else 0.0 for k in range(1, steps + 1)] for t in range(1, steps + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


MOMENTUM = {
    "momentum": {"momentum": 0.9},
    "dampened": {"momentum": 0.7, "dampening": 0.3},
    "nesterov": {"momentum": 0.8, "nesterov": True},
}


@pytest.mark.parametrize("name", MOMENTUM)
def test_momentum_weighs_past_gradients_through_kernels_between_two_times(name):
    """Eq. 11."""
    weight = heavy_ball(**MOMENTUM[name])
    run = follow(optim.SGD, lr=0.05, **MOMENTUM[name])
    S, _ = assert_followed(run, 0.05, weight)
    found = momentum_weights(STEPS, **MOMENTUM[name])
    assert_agrees(found, matrix(weight), tolerance=1e-14, what="weights")
    without, _ = closed_form(run, 0.05, present_only)
    assert float((S - without).abs().max()) > 0.01, "momentum made no difference"


def test_decay_multiplies_contributions_and_initial_weights():
    """Eq. 12, coupled, where it equals decoupled decay since the steps are plain."""
    run = follow(optim.SGD, lr=0.1, weight_decay=0.8)
    S, c = assert_followed(run, 0.1, present_only, decay=0.8)
    plain_S, plain_c = closed_form(run, 0.1, present_only)
    assert float((S - plain_S).abs().max()) > 0.005
    assert float((c - plain_c).abs().max()) > 0.05


@pytest.mark.parametrize("betas", [(0.0, 0.9), (0.9, 0.99)], ids=["rates", "rates-and-average"])
@pytest.mark.parametrize("decay", [0.0, 2.0], ids=["", "decay"])
def test_adaptive_rates_put_their_diagonal_into_the_kernel(betas, decay):
    """``J_{t−1} P_t J_{k−1}ᵀ``, with decoupled decay beside it (Eq. 12)."""
    options = {"lr": 0.02, "betas": betas, "weight_decay": decay}
    run = follow(optim.AdamW, **options)
    weight = averaged(betas[0])
    assert_followed(run, 0.02, weight, decay)
    found = averaging_weights(STEPS, betas[0])
    assert_agrees(found, matrix(weight), tolerance=1e-14, what="weights")
    assert float(run.P.max() / run.P.min()) > 10, "all rates alike"


def test_the_frozen_diagonal_is_an_average_of_squared_gradients():
    run = follow(optim.Adam, lr=0.02, betas=(0.9, 0.95), eps=1e-6)
    mean_square = averaging_weights(STEPS, 0.95) @ run.G.square()
    assert_agrees(1 / (mean_square.sqrt() + 1e-6), run.P, tolerance=TOLERANCE, what="P")


def test_sigmoid_puts_its_slope_into_the_kernel():
    """Eq. 13: the lens on σ(z) is the lens on z with σ′ on both sides of every kernel."""
    run = follow(optim.SGD, sigmoid=True, lr=2.0)
    assert_followed(run, 2.0, present_only)
    # The same Jacobians once more, from what goes into the sigmoid.
    replayed = network(sigmoid=True)
    x = torch.randn(ROWS + TEST, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for t, theta in enumerate(run.theta[:-1]):
        torch.nn.utils.vector_to_parameters(theta, replayed.parameters())
        J_z = torch.cat(list(dense_jacobian(replayed[:-1], x).values()), dim=1)
        f = replayed(x).detach()[:, 0]
        assert_agrees(
            f[:, None] * (1 - f[:, None]) * J_z, run.J[t], tolerance=TOLERANCE, what="σ′ J_z"
        )
        run.J[t] = f[:, None] * (1 - f[:, None]) * J_z
    assert_followed(run, 2.0, present_only)


def test_sigmoid_kernel_is_smallest_between_confident_points():
    model = network(sigmoid=True)
    with torch.no_grad():
        model[2].weight.mul_(20)
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    f = model(x).detach()[:, 0]
    before, after = (tangent_kernel(m, x)[:, 0, :, 0] for m in (model[:-1], model))
    assert_agrees(sigmoid_kernel(before, f, f), after, tolerance=TOLERANCE, what="kernel")
    shrinkage = after.norm(dim=1) / before.norm(dim=1)
    assert float(shrinkage.max()) <= 1 / 16
    by_confidence = (f - 0.5).abs().argsort()
    assert float(shrinkage[by_confidence[-5:]].max()) < float(shrinkage[by_confidence[:5]].min())
    # The row of x shrinks by σ′(x) times a mean of σ′ that depends on the others alone at most.
    ratio = shrinkage / sigmoid_slope(f)
    assert float(ratio.max()) <= float(sigmoid_slope(f).max()) + 1e-12


COUPLED = [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.8, "nesterov": True}]


@pytest.mark.parametrize("decay", [0.0, 0.7])
@pytest.mark.parametrize("options", COUPLED, ids=["plain", "momentum", "nesterov"])
def test_parameters_are_unrolled_into_all_past_gradients(options, decay):
    run = follow(optim.SGD, lr=0.05, weight_decay=decay, **options)
    initial, weights = unroll(momentum_weights(STEPS, **options), 0.05, coupled=decay)
    unrolled = initial[:, None] * run.theta[0] - weights @ run.G
    assert_agrees(unrolled, run.theta, tolerance=TOLERANCE, what="θ")
    if not options["momentum"]:
        keep = 1 - 0.05 * decay
        expected = matrix(lambda t, k: 0.05 * keep ** (t - k))
        assert_agrees(weights[1:], expected, tolerance=1e-14, what="weights")
        powers = torch.tensor([keep**t for t in range(STEPS + 1)], dtype=torch.float64)
        assert_agrees(initial, powers, tolerance=1e-14, what="initial weights")


def test_decoupled_decay_forgets_whole_updates():
    for averaging in (0.0, 0.9):
        weights = averaging_weights(STEPS, averaging)
        run = follow(optim.AdamW, lr=0.02, betas=(averaging, 0.99), weight_decay=3.0)
        initial, factors = unroll_adaptive(weights, run.P, 0.02, decoupled=3.0)
        last = initial * run.theta[0] - (factors * run.G).sum(dim=0)
        assert_agrees(last, run.theta[-1], tolerance=TOLERANCE, what="θ_T")
        assert float(initial) == pytest.approx((1 - 0.06) ** STEPS, rel=1e-12)
        # With rates of one it is the form without them.
        same = unroll(weights, 0.02, decoupled=3.0)
        ones = unroll_adaptive(weights, torch.ones(STEPS, 1), 0.02, decoupled=3.0)
        assert_agrees(ones[1][:, 0], same[1][-1], tolerance=1e-13, what="weights")
        assert float(ones[0]) == pytest.approx(float(same[0][-1]), rel=1e-12)


IMPULSES = {
    "momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov-decay": (
        optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.4},
    ),
    "dampened-decay": (
        optim.SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.5, "weight_decay": 0.4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPULSES)
def test_an_update_rule_answers_an_impulse_with_the_weights(name):
    """Column k gets a unit gradient at step k only; column 0 starts at one and gets none."""
    make, options = IMPULSES[name]
    parameter = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = make([parameter], **options)
    layout = ParameterLayout({"w": parameter}, torch.float64)
    rule = rule_for(optimizer, layout, {"w": parameter}, STEPS + 1, 0)
    path = torch.zeros(2, STEPS + 1, dtype=torch.float64)
    path[:, 0] = 1
    paths = [path.clone()]
    for k in range(1, STEPS + 1):
        gradient = torch.zeros(2, STEPS + 1, dtype=torch.float64)
        gradient[:, k] = 1
        parameter.grad = torch.ones_like(parameter)
        rule.before_update()
        optimizer.step()
        rule.push(gradient, path, frozenset())
        paths.append(path.clone())
    momentum = {
        key: options[key] for key in ("momentum", "dampening", "nesterov") if key in options
    }
    initial, weights = unroll(
        momentum_weights(STEPS, **momentum), 0.1, coupled=options.get("weight_decay", 0.0)
    )
    for row in (0, 1):
        answered = torch.stack(paths)[:, row]
        assert_agrees(answered[:, 0], initial, tolerance=TOLERANCE, what="initial weights")
        assert_agrees(-answered[:, 1:], weights, tolerance=TOLERANCE, what="weights")


def test_what_does_not_fit_is_refused():
    for call in (
        lambda: momentum_weights(0, 0.9),
        lambda: momentum_weights(3, 1.0),
        lambda: momentum_weights(3, 0.9, dampening=2),
        lambda: averaging_weights(3, -0.1),
        lambda: averaging_weights(3, math.nan),
        lambda: unroll(torch.eye(3), 0.0),
        lambda: unroll(torch.eye(3), 0.1, coupled=-1),
        lambda: unroll_adaptive(torch.eye(3), torch.ones(3, 2), 0.1, decoupled=-1),
    ):
        with pytest.raises(ConfigurationError, match="must be"):
            call()
    with pytest.raises(ShapeError, match=r"\(T, T\)"):
        unroll(torch.ones(3, 2), 0.1)
    with pytest.raises(ShapeError, match=r"\(3, p\)"):
        unroll_adaptive(torch.eye(3), torch.ones(2, 2), 0.1)
    with pytest.raises(ShapeError, match="one row and one column"):
        sigmoid_kernel(torch.ones(2, 3), torch.ones(2), torch.ones(2))
