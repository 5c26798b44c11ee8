"""Random label directions estimate the exact measures, without bias and with honest errors."""

import itertools
import math

import pytest
import torch

from telescope_core.complexity import (
    classical_degrees_of_freedom,
    degrees_of_freedom,
    effective_parameters,
    effective_parameters_per_example,
)
from telescope_core.errors import ConfigurationError
from telescope_core.probes import exact_directions, random_directions
from telescope_core.testing import Scenario, assert_agrees

RECORDED = [
    *(f"{name}/effective_parameters" for name in ("train", "test", "other")),
    "train/degrees_of_freedom",
]


def smoother_of(lens_of, specimen, loss, steps=12):
    """An exact smoother on the training set, (n, k, n·k), as the engines hold it."""
    training = Scenario(specimen, "adamw", loss, steps=steps).start()
    lens = lens_of(training, stride=4)
    training.run(lens)
    k = lens.predictions("train").shape[1]
    return lens.smoother("train").reshape(8, k, 8 * k)


def along(S, directions):
    """S·V for the columns of the directions."""
    return S @ directions.basis.reshape(-1, directions.count)


def drawn(S, count, deflated, seed):
    n, k, _ = S.shape
    leading = None
    if deflated:
        leading = torch.linalg.svd(S.reshape(n * k, n * k)).Vh[:deflated].T
    return random_directions(n, k, count, leading, seed, S)


@pytest.mark.parametrize("deflate", [0, 3, 16])
@pytest.mark.parametrize(
    ("specimen", "optimizer", "loss"),
    [
        ("mlp-vector", "sgd-nesterov", "mse"),
        ("mlp-outputs", "adamw", "cross-entropy"),
        ("mlp-outputs", "adam-groups", "mse"),
    ],
)
def test_as_many_probes_as_labels_are_exact(specimen, optimizer, loss, deflate, lens_of):
    training = Scenario(specimen, optimizer, loss).start()
    labels = 8 * training.model(training.train_inputs).reshape(8, -1).shape[1]
    exact = lens_of(training, stride=4)
    full = lens_of(training, stride=4, probes=labels, deflate=deflate)
    training.run(exact, full)
    expected, actual = exact.snapshot().to_record(), full.snapshot().to_record()
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert actual[key] == pytest.approx(value, rel=1e-10, abs=1e-13), key
    errors = [value for key, value in actual.items() if key.endswith("_stderr")]
    assert errors == [0.0] * 4


@pytest.mark.parametrize("deflated", [0, 4])
def test_a_complete_random_basis_gives_every_measure_exactly(deflated, lens_of):
    S = smoother_of(lens_of, "mlp-outputs", "cross-entropy")
    n, k, labels = S.shape
    exact = exact_directions(n, k, S)
    complete = drawn(S, labels, deflated, seed=5)
    for measure in (degrees_of_freedom, classical_degrees_of_freedom):
        expected = measure(along(S, exact), exact.basis, exact)
        value = measure(along(S, complete), complete.basis, complete)
        assert value == pytest.approx(expected, rel=1e-12)
    assert degrees_of_freedom(along(S, complete), complete.basis, complete)[1] == 0
    value, error = effective_parameters(along(S, complete), complete)
    assert value == pytest.approx(n / (n * k) * float((S**2).sum()), rel=1e-12)
    assert error == 0
    assert_agrees(
        effective_parameters_per_example(along(S, complete), complete),
        n / k * (S**2).sum(dim=(1, 2)),
        tolerance=1e-12,
        what="effective parameters per example",
    )


@pytest.mark.parametrize(("count", "deflated"), [(1, 0), (5, 0), (6, 3), (24, 0), (24, 7)])
def test_columns_are_orthonormal_and_weights_add_up(count, deflated):
    like = torch.zeros(1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    leading = torch.linalg.qr(torch.randn(24, deflated, dtype=like.dtype, generator=generator)).Q
    directions = random_directions(8, 3, count, leading if deflated else None, 3, like)
    V = directions.basis.reshape(24, count)
    assert directions.basis.shape == (8, 3, count)
    eye = torch.eye(count, dtype=like.dtype)
    assert_agrees(V.T @ V, eye, tolerance=1e-12, what="VᵀV")
    assert torch.equal(V[:, :deflated], leading)
    # E[Σ w v vᵀ] is the identity, so the weights of a draw sum to its trace.
    assert float(directions.weights.sum()) == pytest.approx(24, rel=1e-12)
    assert torch.equal(directions.weights[:deflated], torch.ones(deflated, dtype=like.dtype))


def test_the_seed_decides_the_directions():
    like = torch.zeros(1, dtype=torch.float64)
    one, same, other = (random_directions(8, 3, 5, None, seed, like).basis for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert float((one - other).abs().max()) > 0.1


def z_score(values, truth):
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return (mean - truth) / math.sqrt(variance / len(values))


@pytest.mark.parametrize(("count", "deflated"), [(6, 0), (6, 2)])
def test_estimates_are_unbiased_and_a_bias_of_five_percent_would_be_seen(count, deflated, lens_of):
    """The mean over seeds is within 3 standard errors of the truth; 5 % off is beyond 5 of them."""
    S = smoother_of(lens_of, "mlp-outputs", "mse")
    n, k, _ = S.shape

    def values_of(directions):
        SV = along(S, directions)
        return (
            effective_parameters(SV, directions)[0],
            degrees_of_freedom(SV, directions.basis, directions)[0],
            classical_degrees_of_freedom(SV, directions.basis, directions),
        )

    truths = values_of(exact_directions(n, k, S))
    draws = [values_of(drawn(S, count, deflated, seed)) for seed in range(8000)]
    for truth, values in zip(truths, zip(*draws, strict=True), strict=True):
        assert abs(z_score(values, truth)) < 3
        assert z_score([1.05 * value for value in values], truth) > 5
        assert z_score([0.95 * value for value in values], truth) < -5


@pytest.mark.parametrize(("deflate", "count"), [(0, 80), (4, 90)])
def test_the_records_of_the_lens_are_unbiased_over_seeds(deflate, count, lens_of):
    """From the seed to the record, with the deflation that the lens itself chooses."""
    training = Scenario("mlp-vector", "sgd", "mse", rows=12, batch_size=4, steps=4).start()
    seeds = range(count)
    exact = lens_of(training, stride=3)
    lenses = [lens_of(training, stride=3, probes=11, deflate=deflate, seed=s) for s in seeds]
    training.run(exact, *lenses)
    truth = exact.snapshot().to_record()
    records = [lens.snapshot().to_record() for lens in lenses]
    for key in RECORDED:
        values = [record[key] for record in records]
        assert abs(z_score(values, truth[key])) < 3, key
        assert z_score([1.05 * value for value in values], truth[key]) > 3, key
        assert z_score([0.95 * value for value in values], truth[key]) < -3, key
    # Values without a random part do not depend on the seed.
    for record, key in itertools.product(records, ("test/approximation_error", "step")):
        assert record[key] == truth[key]


@pytest.mark.parametrize(("count", "deflated"), [(6, 0), (8, 2), (20, 0)])
def test_standard_errors_are_honest(count, deflated, lens_of):
    """The mean square of the stated errors is the variance of the estimates, also near n·k."""
    S = smoother_of(lens_of, "mlp-outputs", "mse")
    pairs = []
    for seed in range(3000):
        directions = drawn(S, count, deflated, seed)
        pairs.append(effective_parameters(along(S, directions), directions))
    values, errors = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    stated = float((errors**2).mean())
    assert stated == pytest.approx(float(values.var()), rel=0.2)
    assert float(errors.min()) > 0


def test_deflation_takes_the_leading_directions_of_the_initial_kernel(lens_of):
    """Estimates scatter less with deflation, early, when one direction carries most of S."""

    def scatter(deflate):
        scenario = Scenario("mlp-vector", "sgd", "mse", rows=12, steps=1, batch_size=None)
        training = scenario.start()
        exact = lens_of(training)
        lenses = [lens_of(training, probes=4, deflate=deflate, seed=seed) for seed in range(40)]
        training.run(exact, *lenses)
        key = "test/effective_parameters"
        truth = exact.snapshot().to_record()[key]
        gaps = [lens.snapshot().to_record()[key] / truth - 1 for lens in lenses]
        return math.sqrt(sum(gap**2 for gap in gaps) / len(gaps))

    assert scatter(2) < 0.1 * scatter(0)


def test_exact_smoothers_are_refused_from_fewer_probes(lens_of):
    training = Scenario("mlp-vector", "adamw", "mse").start()
    lens = lens_of(training, probes=5)
    training.run(lens)
    with pytest.raises(ConfigurationError, match="exact"):
        lens.smoother("test")
    with pytest.raises(ConfigurationError, match="probes=None"):
        lens_of(training, probes=None).smoother("test")


def test_a_single_random_probe_has_no_standard_error(lens_of):
    training = Scenario("mlp-vector", "adamw", "mse").start()
    lens = lens_of(training, probes=1)
    training.run(lens)
    record = lens.snapshot().to_record()
    assert math.isnan(record["test/effective_parameters_stderr"])
    assert record["test/effective_parameters"] > 0
