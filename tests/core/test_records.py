"""Records have the keys that trackers and tables rely on, with values that follow the arrays."""

import json

import pytest
import torch

from telescope_core.errors import ConfigurationError
from telescope_core.testing import LOSSES, SPECIMENS, Scenario

SETS = ("train", "test", "other")


def expected_keys(*, probes, loss, kernels):
    keys, is_classifier = {"step"}, loss == "cross-entropy"
    for name in SETS:
        keys |= {f"{name}/approximation_error", f"{name}/linearization_error"}
        size = f"{name}/{'logit_sensitivity' if is_classifier else 'effective_parameters'}"
        if probes is not None:
            keys |= {size, f"{size}_stderr"}
        if probes == "exact" and is_classifier:
            keys |= {f"{name}/hat_sensitivity"}
        if probes is not None and loss == "mse":
            keys |= {f"{name}/smoother_error"}
        if kernels:
            keys |= {f"{name}/kernel_norm_mean", f"{name}/kernel_norm_max"}
    trace = {"train/degrees_of_freedom", "train/degrees_of_freedom_stderr"}
    return keys | (set() if probes is None else trace)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("probes", [None, 4, "exact"], ids=str)
@pytest.mark.parametrize(
    ("specimen", "loss"),
    [("mlp-vector", "mse"), ("mlp-outputs", "cross-entropy"), ("mlp-vector", "huber")],
)
def test_keys_and_types(specimen, loss, probes, kernels, lens_of):
    training = Scenario(specimen, "adamw", loss).start()
    lens = lens_of(training, probes=probes, kernel_norms=kernels, stride=4)
    keys = expected_keys(probes=probes, loss=loss, kernels=kernels)
    for steps in (0, 5, 10):
        training.run(lens, steps=steps - training.done)
        record = lens.snapshot().to_record()
        assert record.keys() == keys
        assert type(record["step"]) is int
        assert record["step"] == steps == lens.snapshot().step == lens.steps
        assert all(type(value) is float for key, value in record.items() if key != "step")
        if steps:
            assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert next(iter(record)) == "step"


def test_values_follow_the_arrays(lens_of):
    for specimen, loss in (("mlp-vector", "mse"), ("mlp-outputs", "half-squared")):
        training = Scenario(specimen, "adamw", loss).start()
        lens = lens_of(training, stride=4)
        training.run(lens)
        record = lens.snapshot().to_record()
        n, k = 8, SPECIMENS[specimen].outputs
        y = training.train_targets.reshape(-1)
        for name in SETS:
            f = lens.predictions(name)
            rows = len(f)
            S = lens.smoother(name).reshape(rows * k, n * k)
            smoothed = (S @ y).reshape(rows, k) + lens.constant(name).reshape(rows, k)
            values = {
                "approximation_error": (f - lens.telescoped(name)).abs().mean(),
                "linearization_error": (f - lens.linearized(name)).abs().mean(),
                "smoother_error": (f - smoothed).abs().mean(),
                "effective_parameters": n / rows / k * (S**2).sum(),
            }
            for key, value in values.items():
                assert record[f"{name}/{key}"] == pytest.approx(float(value), rel=1e-9), key
                assert float(value) > 0
            assert record[f"{name}/effective_parameters_stderr"] == 0
            per_example = lens.effective_parameters_per_example(name)
            assert per_example.shape == (rows,)
            mean = float(per_example.mean())
            assert mean == pytest.approx(record[f"{name}/effective_parameters"], rel=1e-12)
        trace = float(torch.trace(lens.smoother("train").reshape(n * k, n * k)))
        assert record["train/degrees_of_freedom"] == pytest.approx(trace, rel=1e-12)


@pytest.mark.parametrize("specimen", ["mlp-vector", "mlp-column", "mlp-outputs"])
def test_shapes(specimen, lens_of):
    training = Scenario(specimen, "sgd", "mse").start()
    lens = lens_of(training)
    training.run(lens, steps=3)
    k = SPECIMENS[specimen].outputs
    for name, rows in (("train", 8), ("test", 3), ("other", 2)):
        for read in (lens.predictions, lens.telescoped, lens.linearized):
            assert read(name).shape == (rows, k)
        assert lens.smoother(name).shape == ((rows, 8) if k == 1 else (rows, k, 8, k))
        assert lens.constant(name).shape == ((rows,) if k == 1 else (rows, k))
    assert lens.sets == SETS


def test_predictions_are_the_networks_own(lens_of):
    training = Scenario("attention", "adamw", "cross-entropy").start()
    lens = lens_of(training, stride=4)
    training.run(lens, steps=6)
    with torch.no_grad():
        expected = training.model(training.eval_sets["test"])
    assert torch.allclose(lens.predictions("test"), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("probes", [None, 4, "exact"], ids=str)
def test_before_the_first_step_nothing_is_learned(probes, lens_of):
    for scenario in (
        Scenario("mlp-vector", "sgd", "mse", batch_size=None),
        Scenario("mlp-outputs", "adamw", "cross-entropy"),
    ):
        training = scenario.start()
        lens = lens_of(training, probes=probes)
        record = lens.snapshot().to_record()
        assert all(value == 0 for value in record.values())
        training.run(lens)
        assert lens.snapshot().to_record()["test/approximation_error"] > 0


def test_cross_entropy_has_no_constant(lens_of):
    training = Scenario("mlp-outputs", "sgd", "cross-entropy").start()
    lens = lens_of(training)
    training.run(lens)
    with pytest.raises(ConfigurationError, match="squared"):
        lens.constant("test")


@pytest.mark.parametrize(
    "read",
    ["predictions", "telescoped", "linearized", "smoother", "constant"],
)
def test_an_unknown_set_is_named_with_those_there_are(read, lens_of):
    lens = lens_of(Scenario().start())
    with pytest.raises(ConfigurationError, match=r"'tests'.*train, test, other"):
        getattr(lens, read)("tests")


def test_what_is_read_is_a_copy(lens_of):
    training = Scenario("mlp-vector", "sgd", "mse", batch_size=None).start()
    for strategy in ("parameter-space", "function-space"):
        lens = lens_of(training, strategy=strategy, stride=2)
        training.done = 0
        training.run(lens, steps=4)  # at the end of a block, where arrays might be handed out
        for read in ("predictions", "telescoped", "linearized", "smoother", "constant"):
            first = getattr(lens, read)("test")
            kept = first.clone()
            first.fill_(7.0)
            assert torch.equal(getattr(lens, read)("test"), kept), read


def test_every_loss_of_the_zoo_is_recognised_as_squared_or_not(lens_of):
    for loss, (_, kind) in LOSSES.items():
        training = Scenario("mlp-outputs", "sgd", loss).start()
        record = lens_of(training).snapshot().to_record()
        squared = loss in ("mse", "half-squared", "mse-sum")
        assert ("test/smoother_error" in record) == squared, (loss, kind)


def test_a_record_can_hold_both_readings_and_says_which(lens_of):
    training = Scenario("mlp-vector", "adamw", "half-squared").start()
    lens = lens_of(training, stride=4)
    training.run(lens)
    telescoped, ended, both = (
        lens.snapshot(reading=reading) for reading in ("telescoped", "end-to-end", "both")
    )
    assert both.readings == ("telescoped", "end-to-end")
    assert both.metrics == telescoped.metrics | ended.metrics
    assert telescoped.curvature == "gauss-newton"
    for reading, prefix in (("telescoped", ""), ("end-to-end", "end_to_end/")):
        S = lens.smoother("test", reading=reading)
        size = S.square().sum(dim=(1, 2, 3)).mean() if S.ndim > 2 else S.square().sum(dim=1).mean()
        expected = float(size) * S.shape[-1 if S.ndim == 2 else 2]
        value = both.to_record()[f"test/{prefix}effective_parameters"]
        assert value == pytest.approx(expected, rel=1e-6)
        assert f"train/{prefix}degrees_of_freedom" in both.metrics
    with pytest.raises(ConfigurationError, match="reading must be one of"):
        lens.snapshot(reading="whole")


def test_an_engine_without_columns_of_parameters_refuses_the_other_reading(lens_of):
    training = Scenario("mlp-vector", "sgd", "half-squared").start()
    lens = lens_of(training, stride=4, strategy="function-space")
    training.run(lens)
    with pytest.raises(ConfigurationError, match="'function-space' does not carry"):
        lens.snapshot(reading="both")
