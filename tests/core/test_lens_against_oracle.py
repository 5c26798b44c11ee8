"""The lens agrees with the dense oracle in float64, whatever the rule, model, loss and stride."""

import dataclasses
import itertools
import random

import pytest
import torch
from torch.optim import SGD, Adam

from telescope_core.errors import ConfigurationError
from telescope_core.testing import (
    LOSSES,
    OPTIMIZERS,
    SPECIMENS,
    FrozenKernelOracle,
    MidpointOracle,
    Scenario,
    assert_agrees,
)

TOLERANCE = 1e-9
BLOCKS = [(1, 1), (1, 3), (2, 1), (2, 4)]
ONE_OUTPUT = ["mlp-vector", "mlp-column", "sigmoid", "random-features"]
SEVERAL = ["mlp-outputs", "tied", "random-features-3"]
SQUARED = ["mse", "half-squared", "mse-sum"]

# Every rule with every block length, on one and several outputs, squared loss and cross-entropy;
# which model and which squared loss stands for its kind is drawn once with a fixed seed.
_draw = random.Random(0)
EVERY_RULE = [
    (dataclasses.replace(scenario, schedule=_draw.choice([None, None, "before", "after"])), block)
    for optimizer, block in itertools.product(OPTIMIZERS, BLOCKS)
    for scenario in (
        Scenario(_draw.choice(ONE_OUTPUT), optimizer, _draw.choice(SQUARED)),
        Scenario(_draw.choice(SEVERAL), optimizer, _draw.choice(SQUARED)),
        Scenario(_draw.choice(SEVERAL), optimizer, "cross-entropy"),
    )
]
# The rest of the zoo, where each model goes through torch.func, and the other losses.
EVERY_MODEL = [
    (Scenario(specimen, optimizer, loss, rows=6, steps=7), block)
    for (specimen, optimizer, loss), block in zip(
        (
            ("convolution", "adamw", "cross-entropy"),
            ("convolution", "sgd-nesterov", "mse"),
            ("attention", "adam-groups", "cross-entropy"),
            ("lstm", "adamw", "cross-entropy"),
            ("gru", "sgd-nesterov", "mse"),
            ("attention", "sgd-dampening", "mse"),
            ("tied", "adam", "cross-entropy-smoothed"),
            ("mlp-vector", "sgd-groups", "huber"),
            ("mlp-outputs", "adam", "huber"),
            ("mlp-column", "sgd-momentum", "binary-cross-entropy"),
            ("mlp-vector", "adamw", "binary-cross-entropy"),
            ("mlp-outputs", "sgd-decay", "cross-entropy-smoothed"),
        ),
        itertools.cycle(BLOCKS),
        strict=False,
    )
]
FULL_BATCH = [
    (Scenario(specimen, optimizer, loss, batch_size=None), block)
    for (specimen, optimizer, loss), block in zip(
        (
            ("mlp-vector", "sgd", "mse"),
            ("mlp-outputs", "sgd", "cross-entropy"),
            ("mlp-vector", "sgd-momentum", "mse"),
            ("mlp-outputs", "adamw", "mse"),
        ),
        itertools.cycle(reversed(BLOCKS)),
        strict=False,
    )
]


def name_of(value):
    return str(value) if isinstance(value, Scenario) else "order{}-stride{}".format(*value)


def assert_lens_equals_oracle(lens, oracle, moment, *, affine):
    for name in ("train", "test", "other"):
        for quantity in ("predictions", "telescoped", "linearized", "smoother") + (
            ("constant",) if affine else ()
        ):
            assert_agrees(
                getattr(lens, quantity)(name),
                getattr(oracle, quantity)(name),
                tolerance=TOLERANCE,
                what=f"{quantity} of {name} after step {moment}",
            )


def run_and_compare(scenario, lens_of, oracle_of, moments, kind=None, **options):
    training = scenario.start() if isinstance(scenario, Scenario) else scenario
    block = {key: options[key] for key in ("order", "stride")}
    lens = lens_of(training, **options)
    oracle = oracle_of(training, **({} if kind is None else {"kind": kind}), **block)
    affine = any(training.loss is LOSSES[name][0] for name in SQUARED)
    for moment in moments:
        training.run(lens, oracle, steps=moment - training.done)
        assert_lens_equals_oracle(lens, oracle, moment, affine=affine)
    assert training.done == len(training.batches)
    assert float(oracle.smoother("test").abs().max()) > 1e-3, "nothing was learned"
    return lens


@pytest.mark.parametrize(("scenario", "block"), EVERY_RULE + EVERY_MODEL + FULL_BATCH, ids=name_of)
def test_lens_equals_oracle_at_block_ends_and_inside_blocks(scenario, block, lens_of, oracle_of):
    order, stride = block
    run_and_compare(
        scenario,
        lens_of,
        oracle_of,
        (0, 5, scenario.steps),  # 5, 7 and 10 are inside blocks of 3 and of 4, but for none of 1
        order=order,
        stride=stride,
        strategy="parameter-space",
    )


@pytest.mark.parametrize(
    ("form", "specimen"),
    # A weight that is also used outside its layer, as in "tied", has no factors.
    [("factors", "mlp-outputs"), ("functional", "mlp-outputs"), ("functional", "tied")],
)
def test_every_form_of_the_jacobian_equals_the_oracle(form, specimen, lens_of, oracle_of):
    scenario = Scenario(specimen, "adamw", "cross-entropy", steps=5)
    run_and_compare(scenario, lens_of, oracle_of, (3, 5), order=2, stride=2, form=form)


def test_chunks_do_not_matter(lens_of, oracle_of):
    scenario = Scenario("mlp-outputs", "sgd-nesterov", "mse", steps=7)
    run_and_compare(scenario, lens_of, oracle_of, (4, 7), order=2, stride=3, chunk_size=3)


FUNCTION_SPACE = [
    (Scenario(specimen, "sgd", loss, batch_size=batch, steps=steps, schedule=schedule), block)
    for specimen, loss, batch, steps, schedule, block in (
        ("mlp-vector", "mse", None, 10, None, (1, 1)),
        ("mlp-column", "half-squared", None, 10, None, (1, 4)),
        ("mlp-vector", "half-squared", None, 10, None, (2, 1)),
        ("mlp-outputs", "mse", None, 10, None, (2, 3)),
        ("tied", "half-squared", None, 9, None, (2, 4)),
        ("sigmoid", "mse-sum", None, 10, None, (2, 4)),
        ("mlp-outputs", "half-squared", None, 10, "before", (2, 3)),
        ("convolution", "mse", None, 7, None, (2, 3)),
        ("mlp-vector", "mse", 3, 10, None, (2, 4)),
        ("mlp-outputs", "mse", 3, 10, "after", (1, 3)),
        # Long blocks of equal steps are summed by doubling; try all low bits of the length.
        *(("mlp-vector", "half-squared", None, n, None, (2, n)) for n in range(16, 24)),
        ("mlp-outputs", "mse", None, 37, None, (1, 32)),
    )
]


FUNCTION_SPACE += [
    (Scenario(specimen, optimizer, loss, batch_size=batch, schedule=schedule), block)
    for specimen, optimizer, loss, batch, schedule, block in (
        ("mlp-vector", "sgd-momentum", "mse", 3, None, (2, 4)),
        ("mlp-outputs", "sgd-momentum", "half-squared", 3, "before", (2, 3)),
        ("tied", "sgd-momentum", "mse-sum", None, None, (2, 3)),
        ("mlp-outputs", "sgd-momentum", "mse", 3, "after", (1, 3)),
    )
]


@pytest.mark.parametrize(("scenario", "block"), FUNCTION_SPACE, ids=name_of)
def test_function_space_equals_the_oracle_with_frozen_kernels(scenario, block, lens_of, oracle_of):
    order, stride = block
    lens = run_and_compare(
        scenario,
        lens_of,
        oracle_of,
        (5, scenario.steps),
        FrozenKernelOracle,
        order=order,
        stride=stride,
        strategy="function-space",
    )
    assert lens.strategy == "function-space"


MIDPOINT = [
    (scenario, (2, stride))
    for (scenario, (order, _)), stride in zip(
        EVERY_RULE + EVERY_MODEL + FULL_BATCH, itertools.cycle((1, 3, 4)), strict=False
    )
    if order == 2
][::2]  # Three scenarios a rule; the blocks are those of parameter space, seen from their middle.


@pytest.mark.parametrize(("scenario", "block"), MIDPOINT, ids=name_of)
def test_midpoint_equals_the_oracle_at_the_middle_of_blocks(scenario, block, lens_of, oracle_of):
    order, stride = block
    lens = run_and_compare(
        scenario,
        lens_of,
        oracle_of,
        (0, 5, scenario.steps),
        MidpointOracle,
        order=order,
        stride=stride,
        strategy="midpoint",
    )
    assert lens.strategy == "midpoint"


@pytest.mark.parametrize("optimizer", ["sgd-momentum", "sgd", "adam"])
def test_weight_decay_may_come_and_go_inside_a_block(optimizer, lens_of, oracle_of):
    """Without decay only displacements are held, and with it the position is needed."""
    training = Scenario("mlp-vector", optimizer, "mse").start()
    lens = lens_of(training, order=2, stride=4, strategy="midpoint")
    oracle = oracle_of(training, order=2, stride=4, kind=MidpointOracle)
    for moment, decay in ((2, 0.0), (3, 0.3), (6, 0.0), (7, 0.2), (10, 0.0)):
        for group in training.optimizer.param_groups:
            group["weight_decay"] = decay
        training.run(lens, oracle, steps=moment - training.done)
        assert_lens_equals_oracle(lens, oracle, moment, affine=True)


def test_function_space_with_the_rows_of_the_full_batch_in_any_order(lens_of, oracle_of):
    training = Scenario("mlp-vector", "sgd", "mse", batch_size=8).start()  # permutations of all
    training.batches[3] = training.batches[3][:5]
    training.batches[6] = torch.tensor([0, 0, 1])
    block = {"order": 2, "stride": 4, "strategy": "function-space"}
    run_and_compare(training, lens_of, oracle_of, (2, 7, 10), FrozenKernelOracle, **block)


def test_auto_takes_function_space_for_full_batch_descent_on_a_squared_loss_only(lens_of):
    def chosen(*arguments, **options):
        training = Scenario(*arguments, steps=2, **options).start()
        lens = lens_of(training, strategy="auto")
        training.run(lens)
        return lens.strategy

    assert chosen("mlp-vector", "sgd", "mse", batch_size=None) == "function-space"
    assert chosen("mlp-outputs", "sgd", "half-squared", batch_size=None) == "function-space"
    assert chosen("mlp-vector", "sgd", "mse", batch_size=3) == "parameter-space"
    assert chosen("mlp-vector", "sgd-momentum", "mse", batch_size=None) == "parameter-space"
    assert chosen("mlp-vector", "sgd-decay", "mse", batch_size=None) == "parameter-space"
    assert chosen("mlp-vector", "sgd", "huber", batch_size=None) == "parameter-space"
    assert chosen("mlp-outputs", "sgd", "cross-entropy", batch_size=None) == "parameter-space"


def test_auto_takes_the_midpoint_rule_for_estimates_of_second_order(lens_of):
    def chosen(**options):
        training = Scenario("mlp-vector", "adamw", "mse", steps=2).start()
        lens = lens_of(training, **options)
        training.run(lens)
        return lens.strategy

    assert chosen(probes=6) == "midpoint"
    assert chosen(probes=8) == "parameter-space"  # as many as labels: exact
    assert chosen(probes=6, order=1) == "parameter-space"
    with pytest.raises(ConfigurationError, match="order=2"):
        chosen(probes=6, order=1, strategy="midpoint")


@pytest.mark.parametrize(
    ("optimizer", "other", "rate", "factor"),
    # Near 4 for errors of the second order in the rate, near 8 for those of the third.
    [
        ("sgd", "function-space", 0.1, 2.5),
        ("sgd-momentum", "function-space", 0.02, 2.5),
        ("sgd", "midpoint", 0.0125, 6.0),
    ],
)
def test_strategies_converge_to_each_other_with_the_learning_rate(
    optimizer, other, rate, factor, lens_of
):
    gaps = []
    for lower in (rate, rate / 2):
        training = Scenario("mlp-vector", optimizer, "mse", batch_size=None, steps=8).start()
        training.optimizer.param_groups[0]["lr"] = lower
        lenses = [lens_of(training, stride=4, strategy=s) for s in ("parameter-space", other)]
        training.run(*lenses)
        first, second = (lens.smoother("test") for lens in lenses)
        gaps.append(float((first - second).norm()))
    assert 0 < gaps[1] < gaps[0] / factor


def test_batches_of_any_size_with_repeated_rows(lens_of, oracle_of):
    training = Scenario("mlp-outputs", "adam-decay", "cross-entropy").start()
    sizes = itertools.cycle([1, 5, 2, 8])
    training.batches = [
        torch.randint(8, (size,), generator=torch.Generator().manual_seed(i))
        for i, size in zip(range(10), sizes, strict=False)
    ]
    assert any(len(index.unique()) < len(index) for index in training.batches)
    run_and_compare(training, lens_of, oracle_of, (5, 10), order=2, stride=3)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_that_began_before_and_begins_anew_in_function_space(nesterov, lens_of, oracle_of):
    training = Scenario("mlp-vector", "sgd", "mse").start()
    parameters = training.model.parameters()
    training.optimizer = SGD(parameters, lr=0.05, momentum=0.8, nesterov=nesterov)
    training.run(steps=2)
    lens = lens_of(training, order=2, stride=3, strategy="function-space")
    oracle = oracle_of(training, order=2, stride=3, kind=FrozenKernelOracle)
    training.run(lens, oracle, steps=4)
    training.optimizer.state.clear()
    training.batches[8] = torch.tensor([0, 0, 1])
    training.run(lens, oracle)
    assert_lens_equals_oracle(lens, oracle, 10, affine=True)


@pytest.mark.parametrize("optimizer", ["sgd-momentum", "sgd-dampening", "adam-decay", "adamw"])
def test_attached_to_a_run_that_is_under_way(optimizer, lens_of, oracle_of):
    training = Scenario("mlp-vector", optimizer, "mse").start()
    training.run(steps=3)
    run_and_compare(training, lens_of, oracle_of, (7, 10), order=2, stride=3)


def test_parameters_frozen_unused_or_outside_the_optimizer(lens_of, oracle_of):
    training = Scenario("mlp-vector", "sgd", "mse").start()
    model = training.model
    model.second.bias.requires_grad_(False)
    model.unused = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    moved = [model.third.bias, model.unused, model.first.weight]  # not in the model's order
    training.optimizer = SGD(moved, lr=0.1, momentum=0.5, weight_decay=0.1)
    run_and_compare(training, lens_of, oracle_of, (5, 10), order=2, stride=3)
    assert torch.equal(model.unused, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=torch.tensor(0.05), momentum=0.9),
        lambda p: Adam(p, lr=torch.tensor(0.02), weight_decay=0.1),
        lambda p: Adam(p, lr=0.02, amsgrad=True),
        lambda p: Adam(p, lr=0.02, foreach=True, weight_decay=0.1),
        lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True, foreach=True),
        lambda p: Adam(p, lr=0.02, fused=True),
    ],
    ids=["sgd-tensor-lr", "adam-tensor-lr", "amsgrad", "adam-foreach", "sgd-foreach", "adam-fused"],
)
def test_variants_of_one_optimizer(make, lens_of, oracle_of):
    training = Scenario("mlp-vector", "sgd", "mse").start()
    training.optimizer = make(training.model.parameters())
    run_and_compare(training, lens_of, oracle_of, (10,), order=2, stride=3)


def test_momentum_switched_on_during_training(lens_of, oracle_of):
    training = Scenario("mlp-vector", "sgd-decay", "mse").start()
    lens = lens_of(training, order=2, stride=3)
    oracle = oracle_of(training, order=2, stride=3)
    training.run(lens, oracle, steps=4)
    training.optimizer.param_groups[0]["momentum"] = 0.9
    training.run(lens, oracle)
    assert_lens_equals_oracle(lens, oracle, 10, affine=True)


def test_reading_does_not_disturb_the_stride(lens_of):
    for strategy in ("parameter-space", "function-space"):
        finals = []
        for read in (True, False):
            training = Scenario("mlp-vector", "sgd", "mse", batch_size=None).start()
            lens = lens_of(training, stride=4, strategy=strategy)
            for _ in training.batches:
                training.run(lens, steps=1)
                if read:
                    lens.snapshot()
            finals.append((lens.smoother("test"), lens.telescoped("test"), lens.constant("train")))
        assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_measures_equal_the_oracles(lens_of, oracle_of):
    for specimen, loss in (("mlp-vector", "mse"), ("mlp-outputs", "huber")):
        training = Scenario(specimen, "adamw", loss).start()
        lens, oracle = lens_of(training, stride=4), oracle_of(training, stride=4)
        training.run(lens, oracle)
        record = lens.snapshot().to_record()
        for name in ("train", "test", "other"):
            expected = oracle.effective_parameters(name)
            assert record[f"{name}/effective_parameters"] == pytest.approx(expected, rel=1e-9)
        trace = oracle.degrees_of_freedom()
        assert record["train/degrees_of_freedom"] == pytest.approx(trace, rel=1e-9)
        S = oracle.smoother("train").reshape(-1, 8 * SPECIMENS[specimen].outputs)
        classical = float(torch.trace(2 * S - S @ S.T))
        assert lens.classical_degrees_of_freedom() == pytest.approx(classical, rel=1e-9)


def test_the_sensitivity_is_the_closed_form_of_the_sigmoid_network(lens_of):
    """With σ at the output, one step from zero moves S by γ ∇f ∇f_iᵀ / n, ∇f = σ' ∇z (Eq. 13)."""
    training = Scenario("sigmoid", "sgd", "half-squared", batch_size=None, steps=1).start()
    model = training.model
    model.sigmoid = False
    z = model(training.train_inputs).detach()
    slope = torch.sigmoid(z) * (1 - torch.sigmoid(z))
    rows = []
    for x in training.train_inputs:
        gradients = torch.autograd.grad(model(x[None])[0], list(model.parameters()))
        rows.append(torch.cat([g.reshape(-1) for g in gradients]))
    kernel = torch.stack(rows) @ torch.stack(rows).T
    model.sigmoid = True
    lens = lens_of(training, order=1, stride=1)
    training.run(lens)
    expected = 0.1 / 8 * slope[:, None] * kernel * slope[None, :]
    assert_agrees(lens.smoother("train"), expected, tolerance=1e-14, what="S after one step")
