"""A finished run telescoped from its saved weights."""

import copy
import itertools

import pytest
import torch
from torch import nn

from support.saved_runs import inputs_of, on_disk, saved_run, small_run, weights_of
from telescope_core import from_checkpoints
from telescope_core.errors import (
    ArtifactError,
)
from telescope_core.testing import Scenario, assert_agrees

ERRORS = ("approximation_error", "linearization_error")


def dense_jacobian(model, weights, x):
    """∂f_j(x_i)/∂θ by plain backpropagation, per parameter ``(rows, k, *shape)``."""
    model = copy.deepcopy(model)
    model.load_state_dict(weights)
    model.eval()
    outputs = model(x).reshape(len(x), -1)
    parameters = dict(model.named_parameters())
    rows = [
        torch.autograd.grad(value, list(parameters.values()), retain_graph=True)
        for value in outputs.flatten()
    ]
    return {
        name: torch.stack([row[i] for row in rows]).view(*outputs.shape, *parameter.shape)
        for i, (name, parameter) in enumerate(parameters.items())
    }


def by_layer(jacobian, layer):
    flat = [g.flatten(2) for name, g in jacobian.items() if name.rpartition(".")[0] == layer]
    return torch.cat(flat, dim=-1)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.readout = nn.Linear(6, 2)

    def forward(self, x):
        return self.readout(torch.tanh(self.norm(self.first(x))))


@pytest.fixture
def small():
    return small_run()


@pytest.mark.parametrize(
    ("specimen", "optimizer", "loss", "order", "stride"),
    [
        ("mlp-vector", "sgd-momentum", "mse", 1, 1),
        ("mlp-outputs", "adamw", "cross-entropy", 2, 3),
        ("tied", "sgd", "mse", 2, 2),
        ("convolution", "adam", "mse", 1, 3),
        ("attention", "adam-decay", "cross-entropy", 2, 3),
    ],
)
def test_records_equal_those_of_the_lens(
    specimen, optimizer, loss, order, stride, lens_of, tmp_path
):
    training = Scenario(specimen, optimizer, loss).start()
    lens = lens_of(training, probes=None, order=order, stride=stride)
    weights, records, telescoped = saved_run(training, stride, lens=lens)
    steps = [record["step"] for record in records]
    series = from_checkpoints(
        training.model, on_disk(weights, tmp_path), inputs_of(training), steps=steps, order=order
    )
    assert len(series) == len(weights)
    assert series.steps == tuple(steps)
    for view, record, expected in zip(series, records, telescoped, strict=True):
        ours = view.to_record()
        for key, value in record.items():
            assert ours[key] == pytest.approx(value, rel=0, abs=1e-10), key
        for name in lens.sets:
            assert_agrees(view.telescoped(name), expected[name], tolerance=1e-10, what="f̃")
    assert records[-1]["train/linearization_error"] > 1e-6
    for name in lens.sets:
        assert_agrees(view.predictions(name), lens.predictions(name), tolerance=1e-12, what="f")
        assert_agrees(view.linearized(name), lens.linearized(name), tolerance=1e-10, what="f_lin")


@pytest.mark.parametrize("specimen", ["random-features", "random-features-3"])
@pytest.mark.parametrize("order", [1, 2])
def test_identity_on_a_model_linear_in_its_parameters(specimen, order):
    training = Scenario(specimen, "adamw", "mse").start()
    weights, _, _ = saved_run(training, 3)
    for view in from_checkpoints(training.model, weights, inputs_of(training), order=order):
        for name, every in itertools.product(inputs_of(training), (1, 2, None)):
            f = view.predictions(name)
            assert_agrees(view.telescoped(name, every), f, tolerance=1e-10, what="f̃")
            assert_agrees(view.linearized(name), f, tolerance=1e-10, what="f_lin")
            assert all(view.metrics[f"{name}/{error}"] < 1e-10 for error in ERRORS)
            layers = [v for k, v in view.metrics.items() if "/gradient_change/" in k]
            assert all(change < 1e-20 for change in layers)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("form", ["factors", "functional"])
def test_contributions_of_layers(order, chunk_size, form, small):
    training, weights = small
    series = from_checkpoints(
        training.model,
        weights,
        inputs_of(training),
        order=order,
        chunk_size=chunk_size,
        form=form,
    )
    assert list(series.layers) == ["first", "second", "third"]
    assert series.layers["first"] == ("first.weight", "first.bias")
    views = list(series)
    assert views[0].contributions("test") == {}
    for number, (before, now) in enumerate(itertools.pairwise(views), start=1):
        for name, x in inputs_of(training).items():
            parts = now.contributions(name)
            increment = now.telescoped(name) - before.telescoped(name)
            assert_agrees(sum(parts.values()), increment, tolerance=1e-12, what="Σ J Δθ")
            ends = [dense_jacobian(training.model, w, x) for w in weights[number - 1 : number + 1]]
            for layer, part in parts.items():
                expected = 0
                for parameter in series.layers[layer]:
                    first, last = (end[parameter] for end in ends)
                    j = first if order == 1 else 0.5 * (first + last)
                    delta = weights[number][parameter] - weights[number - 1][parameter]
                    expected = expected + (j * delta).flatten(2).sum(-1)
                assert_agrees(part, expected, tolerance=1e-12, what=f"contribution of {layer}")
                recorded = now.metrics[f"{name}/contribution/{layer}"]
                assert recorded == pytest.approx(float(expected.abs().mean()), rel=1e-9)


@pytest.mark.parametrize(
    ("chunk_size", "form"), [(None, "auto"), (2, "auto"), (None, "functional")]
)
def test_gradient_change_equals_a_dense_computation(chunk_size, form, small, monkeypatch):
    training, weights = small
    monkeypatch.setattr("telescope_core.checkpoints.blocks._ROWS_AT_ONCE", 3)
    series = from_checkpoints(
        training.model, weights, inputs_of(training), chunk_size=chunk_size, form=form
    )
    for number, view in enumerate(series):
        for name, x in inputs_of(training).items():
            for layer in series.layers:
                key = f"{name}/gradient_change/{layer}"
                if not number:
                    assert key not in view.metrics
                    continue
                old, new = (
                    by_layer(dense_jacobian(training.model, w, x), layer)
                    for w in weights[number - 1 : number + 1]
                )
                expected = float(((new - old) ** 2).mean())
                assert expected > 1e-12
                assert view.metrics[key] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("budget", [2**28, 1])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_kernel_norms_equal_a_dense_computation(chunk_size, budget, small, monkeypatch):
    training, weights = small
    monkeypatch.setattr("telescope_core.checkpoints.blocks._COLUMN_BUDGET_BYTES", budget)
    against = training.train_inputs[:5]
    series = from_checkpoints(
        training.model,
        weights,
        training.eval_sets,
        train_inputs=against,
        chunk_size=chunk_size,
    )
    for view, saved in zip(series, weights, strict=True):
        j_train = dense_jacobian(training.model, saved, against)
        j_train = torch.cat([g.flatten(2) for g in j_train.values()], dim=-1).flatten(0, 1)
        for name, x in training.eval_sets.items():
            j = torch.cat(
                [g.flatten(2) for g in dense_jacobian(training.model, saved, x).values()], dim=-1
            )
            norms = (j @ j_train.T / len(against)).flatten(1).norm(dim=1)
            mean, most = (view.metrics[f"{name}/kernel_norm_{n}"] for n in ("mean", "max"))
            assert mean == pytest.approx(float(norms.mean()), rel=1e-10)
            assert most == pytest.approx(float(norms.max()), rel=1e-10)


@pytest.mark.parametrize("form", ["auto", "functional"])
@pytest.mark.parametrize("order", [1, 2])
def test_changed_buffers_are_loaded_and_reported(form, order):
    torch.manual_seed(0)
    model = Normalised().double()
    x = torch.randn(7, 4, dtype=torch.float64)
    weights = []
    for _ in range(3):
        weights.append(weights_of(model))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        model(x)  # Moves the running statistics.
    fresh = Normalised().double()
    views = list(from_checkpoints(fresh, weights, {"x": x}, form=form, order=order))
    assert views[0].metrics["x/buffer_change"] == 0
    model.eval()
    f̃ = None
    for number, view in enumerate(views):
        model.load_state_dict(weights[number])
        f = model(x).detach()
        assert_agrees(view.predictions("x"), f, tolerance=1e-12, what="f")
        if number:
            ends = [dense_jacobian(model, w, x) for w in weights[number - 1 : number + 1]]
            for name in ends[0]:
                j = ends[0][name] if order == 1 else 0.5 * (ends[0][name] + ends[1][name])
                delta = weights[number][name] - weights[number - 1][name]
                f̃ = f̃ + (j * delta).flatten(2).sum(-1)
            old = {n: weights[number - 1][n] for n, _ in model.named_buffers()}
            model.load_state_dict({**weights[number], **old})
            expected = float((f - model(x).detach()).abs().mean())
            assert expected > 1e-6
            assert view.metrics["x/buffer_change"] == pytest.approx(expected, rel=1e-9)
        else:
            f̃ = f
        assert_agrees(view.telescoped("x"), f̃, tolerance=1e-11, what="f̃")


@pytest.mark.parametrize("train", [True, False])
def test_the_model_is_left_unchanged(train, tmp_path):
    torch.manual_seed(0)
    model = Normalised().double().train(train)
    x = torch.randn(5, 4, dtype=torch.float64)
    model(x).sum().backward()
    weights = [weights_of(model) for _ in range(2)]
    weights[1]["first.weight"] += 1
    weights[1]["norm.running_mean"] += 1
    before = weights_of(model)
    gradients = [p.grad.clone() for p in model.parameters()]
    random_state = torch.get_rng_state()
    list(from_checkpoints(model, on_disk(weights, tmp_path), {"x": x}, train_inputs=x))
    assert model.training is train
    assert all(module.training is train for module in model.modules())
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_hooks for module in model.modules())


def test_files_are_read_one_after_the_other(small, tmp_path):
    training, weights = small
    paths = on_disk(weights, tmp_path)
    progress = []
    series = from_checkpoints(
        training.model, paths, training.eval_sets, progress=lambda *at: progress.append(at)
    )
    views = iter(series)
    next(views)
    assert progress == [(1, 4)]
    next(views)
    paths[2].unlink()
    with pytest.raises(ArtifactError, match="checkpoint 2"):
        next(views)
    assert progress == [(1, 4), (2, 4)]


def test_iterating_twice_gives_the_same_records(small):
    training, weights = small
    series = from_checkpoints(training.model, weights, training.eval_sets)
    assert [v.to_record() for v in series] == [v.to_record() for v in series]
    assert series.steps == (0, 1, 2, 3)


def test_measures_can_be_left_out_and_layers_named(small):
    training, weights = small
    inputs = {"test": training.eval_sets["test"]}
    plain = from_checkpoints(
        training.model, weights, inputs, contributions=False, gradient_change=False
    )
    for view in plain:
        assert set(view.metrics) == {f"test/{m}" for m in (*ERRORS, "buffer_change")}
        assert view.contributions("test") == {}
    merged = from_checkpoints(
        training.model, weights, inputs, layer_of=lambda n: "last" if "third" in n else "body"
    )
    view = list(merged)[-1]
    assert list(view.contributions("test")) == ["body", "last"]
    assert {"test/gradient_change/body", "test/contribution/last"} <= set(view.metrics)
