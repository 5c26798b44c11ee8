"""On a model linear in its parameters the network, f̃ and S·Y + c agree to rounding."""

import itertools

import pytest
import torch
from torch.optim import SGD, Adam

from telescope_core.testing import OPTIMIZERS, Scenario, assert_agrees

SETTINGS = list(
    zip(
        itertools.product(["random-features", "random-features-3"], OPTIMIZERS),
        itertools.cycle(["mse", "half-squared", "mse-sum"]),
        itertools.cycle([(1, 1), (2, 4), (1, 3), (2, 1)]),
        itertools.cycle([None, "before", None, None, "after"]),
        strict=False,
    )
)


def smoothed(lens, training, name):
    """S·Y + c, put together from what the lens says about S and c."""
    S, c = lens.smoother(name), lens.constant(name)
    rows = len(c)
    y = training.train_targets.reshape(-1)
    return (S.reshape(-1, len(y)) @ y).reshape(rows, -1) + c.reshape(rows, -1)


def assert_identity(lens, training):
    for name in lens.sets:
        f = lens.predictions(name)
        assert_agrees(lens.telescoped(name), f, tolerance=1e-10, what=f"f̃ against f on {name}")
        assert_agrees(lens.linearized(name), f, tolerance=1e-10, what=f"f_lin against f on {name}")
        expected = smoothed(lens, training, name)
        assert_agrees(expected, f, tolerance=1e-10, what=f"S·Y + c against f on {name}")
    record = lens.snapshot().to_record()
    for name, error in itertools.product(
        lens.sets, ("approximation_error", "linearization_error", "smoother_error")
    ):
        assert record[f"{name}/{error}"] < 1e-10


@pytest.mark.parametrize(("what", "loss", "block", "schedule"), SETTINGS, ids=str)
def test_identity(what, loss, block, schedule, lens_of):
    specimen, optimizer = what
    training = Scenario(specimen, optimizer, loss, schedule=schedule).start()
    start = training.model(training.train_inputs).detach()
    lens = lens_of(training, order=block[0], stride=block[1])
    for _ in range(2):
        training.run(lens, steps=5)
        assert_identity(lens, training)
    moved = training.model(training.train_inputs).detach() - start
    assert float(moved.abs().max()) > 1e-2, "nothing was learned"


@pytest.mark.parametrize("stride", [1, 4, 32])
@pytest.mark.parametrize("specimen", ["random-features", "random-features-3"])
def test_identity_in_function_space(specimen, stride, lens_of):
    training = Scenario(specimen, "sgd", "mse", batch_size=None, steps=39).start()
    lens = lens_of(training, stride=stride)
    training.run(lens)
    assert lens.strategy == "function-space"
    assert_identity(lens, training)


@pytest.mark.parametrize(("optimizer", "batch_size"), [("sgd", None), ("sgd-momentum", 3)])
def test_both_strategies_agree(optimizer, batch_size, lens_of):
    scenario = Scenario("random-features-3", optimizer, "half-squared", batch_size=batch_size)
    training = scenario.start()
    one = lens_of(training, stride=4, strategy="function-space")
    two = lens_of(training, stride=3, strategy="parameter-space")
    training.run(one, two)
    for name in one.sets:
        assert_agrees(one.smoother(name), two.smoother(name), tolerance=1e-11, what="S")
        assert_agrees(one.constant(name), two.constant(name), tolerance=1e-11, what="c")


@pytest.mark.parametrize("optimizer", ["sgd-nesterov", "sgd-dampening", "adam-decay", "adamw"])
def test_identity_when_the_optimizer_has_moved_before(optimizer, lens_of):
    """Momentum buffers, decay and second moments of the past belong to the constant."""
    training = Scenario("random-features", optimizer, "mse").start()
    training.run(steps=4)
    lens = lens_of(training, stride=4)
    training.run(lens)
    assert_identity(lens, training)


@pytest.mark.parametrize("probes", [None, 1, 5, "exact"])
def test_affine_prediction_is_right_with_any_number_of_probes(probes, lens_of):
    """S·Y + c does not need all of S, so its error is exact with probes too."""
    training = Scenario("random-features-3", "adamw", "mse").start()
    lens = lens_of(training, probes=probes, stride=3)
    training.run(lens)
    record = lens.snapshot().to_record()
    if probes is None:
        assert "test/smoother_error" not in record
    else:
        assert record["test/smoother_error"] < 1e-10


@pytest.mark.parametrize("optimizer", ["sgd-momentum", "adamw"])
def test_labels_that_differ_from_the_stored_ones_at_each_step(optimizer, lens_of):
    """With ``targets=`` the difference to the stored labels belongs to the constant."""
    training = Scenario("random-features-3", optimizer, "mse").start()
    lens = lens_of(training, stride=3)
    generator = torch.Generator().manual_seed(7)
    for index in training.batches:
        stored = training.train_targets[index]
        noisy = stored + torch.randn(stored.shape, generator=generator, dtype=stored.dtype)
        with lens.step(index, targets=noisy):
            training.optimizer.zero_grad()
            training.loss(training.model(training.train_inputs[index]), noisy).backward()
            training.optimizer.step()
    assert_identity(lens, training)


@pytest.mark.parametrize("optimizer", ["sgd-momentum", "adamw"])
def test_augmented_inputs_leave_telescoped_predictions_right(optimizer, lens_of):
    training = Scenario("random-features", optimizer, "mse").start()
    lens = lens_of(training, stride=3)
    for index in training.batches:
        seen = training.train_inputs[index] * 1.3
        with lens.step(index, inputs=seen):
            training.optimizer.zero_grad()
            training.loss(training.model(seen), training.train_targets[index]).backward()
            training.optimizer.step()
    for name in lens.sets:
        f = lens.predictions(name)
        assert_agrees(lens.telescoped(name), f, tolerance=1e-10, what=f"f̃ against f on {name}")


def test_stored_rows_given_as_inputs_and_targets_change_nothing(lens_of):
    results = []
    for given in (False, True):
        training = Scenario("mlp-outputs", "adamw", "cross-entropy").start()
        lens = lens_of(training, stride=3)
        for index in training.batches:
            x, y = training.train_inputs[index], training.train_targets[index]
            with lens.step(index, **({"inputs": x, "targets": y} if given else {})):
                training.optimizer.zero_grad()
                training.loss(training.model(x), y).backward()
                training.optimizer.step()
        results.append(lens.smoother("test"))
    assert_agrees(results[1], results[0], tolerance=1e-12, what="S with inputs= and targets=")


def test_identity_with_two_optimizers_groups_and_a_frozen_layer(lens_of):
    for make in (SGD, Adam):
        training = Scenario("random-features-3", "sgd", "mse").start()
        readout = training.model.readout
        readout.weight.requires_grad_(make is SGD)
        groups = [{"params": [readout.bias], "lr": 0.2, "weight_decay": 0.3}]
        groups += [{"params": [readout.weight], "lr": 0.03}] if make is SGD else []
        training.optimizer = make(groups, lr=0.1)
        lens = lens_of(training, stride=4)
        training.run(lens)
        assert_identity(lens, training)
