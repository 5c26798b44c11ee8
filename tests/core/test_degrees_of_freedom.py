"""The measure of a classifier that is a count: degrees of freedom of its predicted means."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.losses import draw
from telescope_core.complexity import hat_norm
from telescope_core.errors import ConfigurationError
from telescope_core.lens.measures import Measures
from telescope_core.losses import Response
from telescope_core.probes import LabelDirections, exact_directions, random_directions
from telescope_core.testing import Scenario, assert_agrees, sensitivity_by_replay
from telescope_core.testing.means import degrees_of_freedom, hat_sensitivity, mean_jacobian

WEIGHTS = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)


def one_hot(training):
    return functional.one_hot(training.train_targets, 3).double()


def with_log_softmax(training):
    training.model = nn.Sequential(training.model, nn.LogSoftmax(1))


def nll_of_weights(f, y):
    return -(y * f).sum(1).mean()


def classifier(form, steps=7):
    """A run before its first step, and the response that its loss has."""
    specimen, response = ("mlp-outputs", "softmax")
    loss = "cross-entropy-smoothed" if form == "smoothed" else "cross-entropy"
    if form == "sigmoid":
        specimen, response, loss = "mlp-vector", "sigmoid", "binary-cross-entropy"
    if form == "sigmoids":
        response, loss = "sigmoid", "binary-cross-entropy"
    training = Scenario(specimen, "adamw", loss, steps=steps).start()
    if form == "one-hot":
        training.train_targets = one_hot(training)
    if form == "weights":
        training.train_targets = one_hot(training)
        training.loss = nn.CrossEntropyLoss(weight=WEIGHTS)
    if form == "positive-weights":
        response = "sigmoid"
        training.train_targets = one_hot(training)
        training.loss = nn.BCEWithLogitsLoss(pos_weight=WEIGHTS)
    if form == "log-probabilities":
        response = "exp"
        training.train_targets = one_hot(training)
        training.loss = nll_of_weights
        with_log_softmax(training)
    return training, response


FORMS = [
    "indices",
    "one-hot",
    "smoothed",
    "weights",
    "sigmoid",
    "sigmoids",
    "positive-weights",
    "log-probabilities",
]


@pytest.mark.parametrize("form", FORMS)
def test_records_equal_a_dense_account(form, lens_of, oracle_of):
    training, response = classifier(form)
    lens, oracle = lens_of(training, stride=3), oracle_of(training, stride=3)
    training.run(lens, oracle)
    assert lens.response == response
    record = lens.snapshot().to_record()
    f = {name: oracle.predictions(name) for name in ("train", "test")}
    S = {name: oracle.smoother(name) for name in f}
    expected = {
        "train/degrees_of_freedom": degrees_of_freedom(response, f["train"], S["train"]),
        "train/degrees_of_freedom_stderr": 0.0,
        **{
            f"{name}/hat_sensitivity": hat_sensitivity(response, f[name], f["train"], S[name])
            for name in f
        },
        **{f"{name}/logit_sensitivity": oracle.effective_parameters(name) for name in f},
    }
    for key, value in expected.items():
        assert record[key] == pytest.approx(value, rel=1e-9), key
    assert not any("effective_parameters" in key for key in record)
    assert 0 < record["train/degrees_of_freedom"] < 8
    assert lens.degrees_of_freedom() == (record["train/degrees_of_freedom"], 0.0)
    assert lens.hat_sensitivity("test") == record["test/hat_sensitivity"]


def test_class_indices_and_log_probabilities_are_measured_alike(lens_of):
    """The loss in its other forms: indices for one-hot rows, NLL for cross-entropy."""
    seen = []
    for form in ("log-probabilities", "indices"):
        training, _ = classifier(form)
        if form == "indices":
            training.loss = nn.NLLLoss()
            with_log_softmax(training)
        lens = lens_of(training)
        training.run(lens)
        seen.append(lens.degrees_of_freedom()[0])
    assert seen[0] == pytest.approx(seen[1], rel=1e-12)


@pytest.mark.parametrize("form", ["one-hot", "sigmoids"])
def test_probabilities_after_training_on_other_labels_say_the_same(form, lens_of):
    """Each label in turn is changed, the frozen model trained again, its probabilities compared."""
    training, response = classifier(form, steps=5)
    directions = torch.eye(24, dtype=torch.float64).view(24, 8, 3)
    shifts = [sensitivity_by_replay(training, V)["train"] for V in directions]
    lens = lens_of(training, stride=1)
    training.run(lens)
    f, step, moved = lens.predictions("train"), 1e-5, 0.0
    for label, shift in enumerate(shifts):
        row, entry = divmod(label, 3)
        up, down = (f[row] + sign * step * shift[row] for sign in (1, -1))
        if response == "softmax":
            difference = up.softmax(0) - down.softmax(0)
        else:
            difference = up.sigmoid() - down.sigmoid()
        moved += float(difference[entry]) / (2 * step)
    coordinates = 2 if response == "softmax" else 3
    assert lens.degrees_of_freedom()[0] == pytest.approx(moved / coordinates, rel=1e-4)


RESPONSES = [
    Response("softmax", (3,), 0),
    Response("softmax", (3, 2), 0),
    Response("softmax", (2, 3), 1),
    Response("exp", (3,), 0),
    Response("sigmoid", ()),
    Response("sigmoid", (2,)),
    Response("identity", (2,)),
]


@pytest.mark.parametrize("response", RESPONSES, ids=str)
def test_the_derivative_of_the_means_is_that_of_autograd(response):
    k = math.prod(response.shape)
    f, columns = draw(4, k, seed=1), draw(4, k, 5, seed=2)
    if response.kind == "exp":
        f = f.log_softmax(1)
    for row, moved in zip(f, response.derivative(f, columns), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda g: response.means(g[None])[0], row)
        at = int((f == row).all(1).nonzero())
        assert_agrees(moved, jacobian @ columns[at], tolerance=1e-12, what="W S")
    free = {"softmax": k - k // 3, "exp": k - 1, "sigmoid": k, "identity": 1}
    assert response.divisor == free[response.kind]


def learned(seed=0, steps=150, rows=40, noise=0.25):
    """Digits of four classes, some of whose labels are wrong, for a network that learns them."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(n_class=4, return_X_y=True)
    x, y = torch.tensor(pixels / 16)[:rows], torch.tensor(digits)[:rows]
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(rows, generator=generator) < noise
    y = torch.where(wrong, torch.randint(4, y.shape, generator=generator), y)
    training = Scenario("mlp-outputs", steps=steps).start()
    torch.manual_seed(seed)
    training.model = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 4)).double()
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.02)
    training.loss, training.train_inputs, training.train_targets = nn.CrossEntropyLoss(), x, y
    training.eval_sets = {"test": torch.tensor(pixels / 16)[rows : 2 * rows]}
    training.batches = [torch.randperm(rows, generator=generator)[:20] for _ in range(steps)]
    return training


@pytest.fixture(scope="module")
def followed():
    """An exact lens, one with few probes, and the exact lens's records on the way."""
    from support.runs import attached
    from telescope_core.lens import TelescopeLens

    training, records = learned(), []
    options = {"stride": 10, "strategy": "parameter-space"}
    exact = attached(TelescopeLens, training, probes="exact", **options)
    probed = attached(TelescopeLens, training, probes=24, deflate=8, **options)
    for _ in range(3):
        training.run(exact, probed, steps=50)
        records.append((exact.snapshot().to_record(), probed.snapshot().to_record()))
    return exact, probed, records


def test_it_is_a_count_where_the_size_of_logits_is_none(followed):
    _, _, records = followed
    counts = [exact["train/degrees_of_freedom"] for exact, _ in records]
    assert all(0 < count <= 40 for count in counts)
    assert records[-1][0]["test/logit_sensitivity"] > 40
    for exact, probed in records:
        error = probed["train/degrees_of_freedom_stderr"]
        assert 0 < error < exact["train/degrees_of_freedom"]
        gap = probed["train/degrees_of_freedom"] - exact["train/degrees_of_freedom"]
        assert abs(gap) < 4 * error
        assert not any("hat_sensitivity" in key for key in probed)


@pytest.mark.parametrize("deflated", [0, 8])
def test_standard_errors_cover_the_exact_value_over_fifty_seeds(deflated, followed):
    exact, _, _ = followed
    f, S = exact.predictions("train"), exact.smoother("train").reshape(40, 4, 160)
    response = Response("softmax", (4,), 0)
    leading = torch.linalg.svd(S.flatten(0, 1)).Vh[:deflated].T if deflated else None

    def measured(directions: LabelDirections):
        columns = S @ directions.basis.flatten(0, 1)
        measures = Measures(columns, f, directions, None, response, directions.basis)
        return measures.degrees_of_freedom(response)

    truth, nothing = measured(exact_directions(40, 4, S))
    assert nothing == 0
    assert truth == pytest.approx(exact.degrees_of_freedom()[0], rel=1e-9)
    drawn = [measured(random_directions(40, 4, 24, leading, seed, S)) for seed in range(50)]
    off = torch.tensor([(value - truth) / error for value, error in drawn])
    errors = torch.tensor([error for _, error in drawn])
    mean = sum(value for value, _ in drawn) / 50
    assert abs(mean - truth) < 3 * float(errors.square().mean().sqrt()) / 50**0.5
    # About two thirds and 95 % for a normal distribution; fewer where errors rest on 16 columns.
    assert 0.5 <= float((off.abs() < 1).double().mean()) <= 0.85
    assert float((off.abs() < 2).double().mean()) >= 0.86
    # And they are not wide: the values scatter as much as they say.
    scatter = torch.tensor([value for value, _ in drawn]).std()
    assert 0.7 < float(scatter / errors.square().mean().sqrt()) < 1.4


def test_a_lens_with_probes_measures_as_its_own_columns_say(followed):
    exact, probed, records = followed
    S, f = exact.smoother("train").reshape(160, 160), exact.predictions("train")
    directions = probed._readings._engine().directions
    V = directions.basis.reshape(160, -1)
    products = (V * (mean_jacobian("softmax", f) @ S @ V)).sum(0)
    value = float(products @ directions.weights) / 3
    assert records[-1][1]["train/degrees_of_freedom"] == pytest.approx(value, rel=1e-9)


def test_layers_add_up(lens_of):
    training, _ = classifier("indices")
    lens = lens_of(training, layer_shares=True, probes=9, strategy="parameter-space")
    training.run(lens)
    record, by_layer = lens.snapshot().to_record(), lens.degrees_of_freedom_by_layer()
    assert len(by_layer) > 1
    for name, parts in (
        ("train/degrees_of_freedom", by_layer),
        ("test/logit_sensitivity", lens.logit_sensitivity_by_layer("test")),
    ):
        assert sum(parts.values()) == pytest.approx(record[name], rel=1e-10)
        assert {record[f"{name}/{layer}"] for layer in parts} == set(parts.values())


def test_the_hat_form_of_many_rows_is_that_of_all_at_once():
    S, f, train = draw(70, 3, 12, seed=1), draw(70, 3, seed=2), draw(4, 3, seed=3)
    expected = hat_sensitivity("softmax", f, train, S)
    actual = hat_norm(S, f, train, Response("softmax", (3,), 0))
    assert actual == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("form", "read", "message"),
    [
        ("indices", lambda lens: lens.effective_parameters_per_example("test"), "no count"),
        ("indices", lambda lens: lens.effective_parameters_by_layer("test"), "no count"),
        ("indices", lambda lens: lens.classical_degrees_of_freedom(), "read degrees_of_freedom"),
        ("regression", lambda lens: lens.logit_sensitivity_per_example("test"), "these are"),
        ("regression", lambda lens: lens.hat_sensitivity("test"), "follows predictions"),
        ("few", lambda lens: lens.hat_sensitivity("test"), 'use probes="exact"'),
    ],
)
def test_readings_that_do_not_suit_the_outputs_are_refused(form, read, message, lens_of):
    loss = "mse" if form == "regression" else "cross-entropy"
    lens = lens_of(
        Scenario("mlp-outputs", "sgd", loss).start(), probes=5 if form == "few" else "exact"
    )
    with pytest.raises(ConfigurationError, match=message):
        read(lens)


def test_squared_losses_are_measured_as_before(lens_of):
    training = Scenario("mlp-outputs", "adamw", "mse").start()
    lens = lens_of(training)
    training.run(lens)
    S = lens.smoother("train").reshape(24, 24)
    assert lens.response == "identity"
    trace = float(torch.trace(S))
    assert lens.degrees_of_freedom() == (pytest.approx(trace, rel=1e-12), 0.0)
    record = lens.snapshot().to_record()
    assert record["train/effective_parameters"] == pytest.approx(float((S**2).sum()) / 3)
    assert not any("sensitivity" in key for key in record)
