"""The dense oracle is right: identities on linear models, finite differences on the others."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from telescope_core.testing import (
    OPTIMIZERS,
    SPECIMENS,
    DenseOracle,
    FrozenKernelOracle,
    Scenario,
    assert_agrees,
    sensitivity_by_replay,
)
from telescope_core.testing.dense import dense_jacobian, loss_derivatives


def oracle_of(training, kind=DenseOracle, **options):
    return kind(
        training.model,
        training.optimizer,
        training.loss,
        training.train_inputs,
        training.train_targets,
        training.eval_sets,
        **options,
    )


LINEAR = [
    Scenario(specimen, optimizer, loss, schedule=schedule)
    for (specimen, optimizer), loss, schedule in zip(
        itertools.product(["random-features", "random-features-3"], OPTIMIZERS),
        itertools.cycle(["mse", "half-squared", "mse-sum"]),
        itertools.cycle([None, "before", None]),
        strict=False,
    )
]


@pytest.mark.parametrize("scenario", LINEAR, ids=str)
@pytest.mark.parametrize(
    "options", [{"order": 1}, {"order": 1, "stride": 4}, {"order": 2, "stride": 3}], ids=str
)
def test_on_a_linear_model_network_telescope_and_smoother_agree(scenario, options):
    training = scenario.start()
    oracle = oracle_of(training, **options)
    start = oracle.predictions("test")
    training.run(oracle)
    for name in ("train", "test", "other"):
        f = oracle.predictions(name)
        assert_agrees(oracle.telescoped(name), f, tolerance=1e-10, what="f̃ against f")
        assert_agrees(oracle.linearized(name), f, tolerance=1e-10, what="f_lin against f")
        assert_agrees(oracle.smoothed(name), f, tolerance=1e-10, what="S·Y + c against f")
    assert float((oracle.predictions("test") - start).abs().max()) > 1e-2, "nothing was learned"


def test_the_identity_holds_when_attached_to_an_optimizer_that_has_moved():
    for optimizer in ("sgd-nesterov", "adamw"):
        training = Scenario("random-features-3", optimizer).start()
        training.run(steps=4)
        oracle = oracle_of(training, order=1, stride=2)
        training.run(oracle)
        f = oracle.predictions("test")
        assert_agrees(oracle.smoothed("test"), f, tolerance=1e-10, what=f"{optimizer}: S·Y + c")


NONLINEAR = [
    *(Scenario("mlp-vector", optimizer, "mse") for optimizer in OPTIMIZERS),
    Scenario("mlp-vector", "sgd-momentum", "huber"),
    Scenario("mlp-column", "adam-decay", "binary-cross-entropy"),
    Scenario("mlp-outputs", "sgd-nesterov", "cross-entropy"),
    Scenario("mlp-outputs", "adamw-groups", "cross-entropy-smoothed"),
    Scenario("mlp-outputs", "sgd-groups", "mse", schedule="before"),
    Scenario("sigmoid", "adam", "half-squared", schedule="before"),
    Scenario("tied", "sgd-dampening", "mse"),
    Scenario("convolution", "adamw", "cross-entropy"),
    Scenario("attention", "adam-groups", "cross-entropy"),
]


@pytest.mark.parametrize("scenario", NONLINEAR, ids=str)
@pytest.mark.parametrize(("order", "stride"), [(1, 1), (1, 3), (2, 1), (2, 4)])
def test_smoother_times_a_direction_is_the_finite_difference_of_a_replay(scenario, order, stride):
    scenario = dataclasses.replace(scenario, rows=6, eval_rows=2, steps=7)
    training = scenario.start()
    k = SPECIMENS[scenario.specimen].outputs
    generator = torch.Generator().manual_seed(5)
    direction = torch.randn(scenario.rows, k, dtype=torch.float64, generator=generator)

    expected = sensitivity_by_replay(training, direction, order=order, stride=stride)
    oracle = oracle_of(training, order=order, stride=stride)
    training.run(oracle)
    for name, wanted in expected.items():
        S = oracle.smoother(name).reshape(-1, scenario.rows * k)
        actual = (S @ direction.reshape(-1)).reshape(-1, k)
        scale = float(wanted.abs().max())
        assert scale > 1e-3, "the labels hardly matter here; choose a stronger case"
        assert_agrees(actual / scale, wanted / scale, tolerance=2e-7, what=f"S·V of {name}")


def test_closed_form_of_full_batch_gradient_descent_on_a_linear_model():
    training = Scenario("random-features", "sgd", "half-squared", batch_size=None).start()
    oracle = oracle_of(training, order=1, stride=5)
    J = dense_jacobian(training.model, training.train_inputs)
    K = sum(block @ block.T for block in J.values()) / len(training.train_inputs)
    training.run(oracle)
    identity = torch.eye(len(K), dtype=K.dtype)
    expected = identity - torch.linalg.matrix_power(identity - 0.1 * K, len(training.batches))
    assert_agrees(oracle.smoother("train"), expected, tolerance=1e-12, what="S_train")


def test_second_order_is_closer_to_the_network_and_both_converge_with_the_step():
    errors = {}
    for lr, order in itertools.product((0.1, 0.05), (1, 2)):
        training = Scenario("mlp-vector", "sgd", "mse", batch_size=None).start()
        training.optimizer.param_groups[0]["lr"] = lr
        training.batches = training.batches * 2 if lr == 0.05 else training.batches
        oracle = oracle_of(training, order=order)
        training.run(oracle)
        errors[lr, order] = float((oracle.telescoped("test") - oracle.predictions("test")).norm())
    assert errors[0.1, 1] / errors[0.05, 1] == pytest.approx(2, rel=0.2)
    assert errors[0.1, 2] / errors[0.05, 2] == pytest.approx(4, rel=0.2)
    assert errors[0.1, 2] < 0.1 * errors[0.1, 1]


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_frozen_kernels_at_first_order_and_stride_one_are_the_plain_recursion(loss):
    results = []
    for kind in (DenseOracle, FrozenKernelOracle):
        training = Scenario("mlp-outputs", "sgd", loss).start()
        oracle = oracle_of(training, kind, order=1, stride=1)
        training.run(oracle)
        results.append(oracle.smoother("test"))
    assert_agrees(results[1], results[0], tolerance=1e-13, what="S with and without freezing")


def test_frozen_kernels_on_a_linear_model_are_the_plain_recursion_at_any_stride():
    for order, stride in ((1, 3), (2, 4)):
        training = Scenario("random-features-3", "sgd", "mse", schedule="after").start()
        plain = oracle_of(training, order=order, stride=stride)
        frozen = oracle_of(training, FrozenKernelOracle, order=order, stride=stride)
        for _ in training.batches:
            training.run(plain, frozen, steps=1)
            for name in ("train", "test"):
                expected = plain.smoother(name)
                assert_agrees(frozen.smoother(name), expected, tolerance=1e-12, what="S")
                assert_agrees(
                    frozen.constant(name), plain.constant(name), tolerance=1e-12, what="c"
                )


def test_frozen_mean_kernels_converge_to_the_plain_recursion_with_the_step():
    gaps = []
    for lr in (0.1, 0.05):
        training = Scenario("mlp-vector", "sgd", "mse", batch_size=None, steps=8).start()
        training.optimizer.param_groups[0]["lr"] = lr
        plain = oracle_of(training, order=2, stride=4)
        frozen = oracle_of(training, FrozenKernelOracle, order=2, stride=4)
        training.run(plain, frozen)
        gaps.append(float((plain.smoother("test") - frozen.smoother("test")).norm()))
    assert gaps[0] / gaps[1] > 2.5, "the gap between the two must vanish faster than the step"


def test_reading_inside_a_block_leaves_the_stride_alone():
    def final(read):
        training = Scenario("mlp-vector", "adamw").start()
        oracle = oracle_of(training, order=2, stride=4)
        for _ in training.batches:
            training.run(oracle, steps=1)
            if read:
                oracle.smoother("test"), oracle.telescoped("train"), oracle.constant("other")
        return oracle.smoother("test"), oracle.telescoped("test")

    for read, unread in zip(final(True), final(False), strict=True):
        assert torch.equal(read, unread)


def test_shapes_and_numbers_for_one_and_several_outputs():
    for name, shape in (("mlp-column", (3, 8)), ("mlp-outputs", (3, 3, 8, 3))):
        training = Scenario(name, "adam", "mse").start()
        oracle = oracle_of(training)
        training.run(oracle)
        S = oracle.smoother("test")
        k = SPECIMENS[name].outputs
        assert S.shape == shape
        assert oracle.predictions("test").shape == oracle.telescoped("test").shape == (3, k)
        assert oracle.constant("test").shape == ((3,) if k == 1 else (3, k))
        expected = 8 / 3 * float((S**2).sum()) / k
        assert oracle.effective_parameters("test") == pytest.approx(expected, rel=1e-12)
        T = oracle.smoother("train").reshape(8, k, 8, k)
        trace = sum(float(T[i, j, i, j]) for i in range(8) for j in range(k))
        assert oracle.degrees_of_freedom() == pytest.approx(trace, rel=1e-12)


def test_the_oracle_changes_nothing_and_needs_exactly_one_optimizer_step():
    with_oracle = Scenario("attention", "adamw", "cross-entropy").start()
    without = Scenario("attention", "adamw", "cross-entropy").start()
    before = torch.random.get_rng_state()
    with_oracle.run(oracle_of(with_oracle))
    without.run()
    for a, b in zip(with_oracle.parameters(), without.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(ValueError, match="unpack"), oracle_of(without).step(torch.tensor([0])):
        pass


def test_only_a_quadratic_loss_has_a_constant():
    training = Scenario("mlp-outputs", "sgd", "cross-entropy").start()
    oracle = oracle_of(training)
    training.run(oracle)
    with pytest.raises(ValueError, match="squared loss"):
        oracle.constant("test")


def test_loss_derivatives_of_known_losses():
    f = torch.tensor([0.3, -0.2], dtype=torch.float64)
    y = torch.tensor([1.0, 0.5], dtype=torch.float64)
    g, g_f, g_y = loss_derivatives(nn.MSELoss(), f, y)
    eye = torch.eye(2, dtype=torch.float64)
    assert_agrees(g, f - y, tolerance=1e-15, what="g")  # 2 (f − y) / 2
    assert_agrees(g_f, eye, tolerance=1e-15, what="∂g/∂f")
    assert_agrees(g_y, -eye, tolerance=1e-15, what="∂g/∂Y")

    logits = torch.tensor([[0.3, -0.2, 0.9]], dtype=torch.float64)
    q = logits.softmax(dim=1)[0]
    g, g_f, g_y = loss_derivatives(nn.CrossEntropyLoss(), logits, torch.tensor([2]))
    hot = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    ones = torch.ones(3, dtype=torch.float64)
    assert_agrees(g, q - hot, tolerance=1e-15, what="g")
    assert_agrees(g_f, torch.diag(q) - torch.outer(q, q), tolerance=1e-15, what="∂g/∂f")
    expected = torch.outer(q, ones) - torch.eye(3, dtype=torch.float64)
    assert_agrees(g_y, expected, tolerance=1e-15, what="∂g/∂Y")

    # A loss flat in the outputs has no derivative at all; an absolute error has no second one.
    g, g_f, g_y = loss_derivatives(nn.L1Loss(), f, y)
    assert float(g_f.abs().sum() + g_y.abs().sum()) == 0
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="one-hot"):
        loss_derivatives(weighted, logits, torch.tensor([2]))


def test_options_out_of_range_are_refused():
    training = Scenario().start()
    for options in ({"order": 3}, {"stride": 0}):
        with pytest.raises(ValueError, match="order is 1 or 2"):
            oracle_of(training, **options)


def test_parameters_outside_the_optimizer_or_without_gradient_do_not_move():
    model = SPECIMENS["mlp-vector"].model()
    model.second.bias.requires_grad_(False)
    optimizer = SGD([model.first.weight, model.third.bias], lr=0.1, weight_decay=0.1)
    training = Scenario().start()
    training.model, training.optimizer = model, optimizer
    oracle = oracle_of(training, order=1)
    training.run(oracle)
    assert set(oracle.parameters) == {
        "first.weight",
        "first.bias",
        "second.weight",
        "third.weight",
        "third.bias",
    }
    moved = {name for name, A in oracle._labels.weights.items() if float(A.abs().max()) > 0}
    assert moved == {"first.weight", "third.bias"}


def test_another_optimizer_has_no_rule():
    training = Scenario().start()
    training.optimizer = torch.optim.RMSprop(training.model.parameters())
    with pytest.raises(TypeError, match="RMSprop"):
        training.run(oracle_of(training))


def test_amsgrad_on_a_linear_model():
    training = Scenario("random-features").start()
    training.optimizer = Adam(training.model.parameters(), lr=0.05, amsgrad=True)
    oracle = oracle_of(training, order=1)
    training.run(oracle)
    f = oracle.predictions("test")
    assert_agrees(oracle.smoothed("test"), f, tolerance=1e-10, what="S·Y + c")
