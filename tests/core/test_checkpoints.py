"""A finished run telescoped from its saved weights."""

import copy
import itertools
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import telescope_core
from telescope_core import from_checkpoints
from telescope_core.errors import (
    ArtifactError,
    ConfigurationError,
    ModelError,
    NonFiniteError,
    ShapeError,
)
from telescope_core.testing import Scenario, assert_agrees

ERRORS = ("approximation_error", "linearization_error")


def weights_of(model):
    return copy.deepcopy(model.state_dict())


def inputs_of(training):
    return {"train": training.train_inputs, **training.eval_sets}


def saved_run(training, stride, *, lens=None, blocks=3):
    """Train, and keep the weights, the lens's record and its predictions at every block end."""
    weights, records, telescoped = [weights_of(training.model)], [], []
    for block in range(blocks + 1):
        if block:
            training.run(*([lens] if lens else []), steps=stride)
            weights.append(weights_of(training.model))
        if lens:
            records.append(lens.snapshot().to_record())
            telescoped.append({name: lens.telescoped(name) for name in lens.sets})
    return weights, records, telescoped


def on_disk(weights, folder):
    paths = []
    for number, tensors in enumerate(weights):
        paths.append(folder / f"{number}.safetensors")
        save_file({name: t.clone().contiguous() for name, t in tensors.items()}, paths[-1])
    return paths


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
    """A trained multi-layer perceptron with three outputs, and its weights at four steps."""
    training = Scenario("mlp-outputs", "adamw", "cross-entropy", steps=12).start()
    weights, _, _ = saved_run(training, 4)
    return training, weights


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


def test_a_file_may_hold_tied_weights_once(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3).double()
            self.two = nn.Linear(3, 3).double()
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(torch.tanh(self.one(x)))

    model = Twice()
    x = torch.randn(4, 3, dtype=torch.float64)
    both = [weights_of(model), {n: t + 0.1 for n, t in weights_of(model).items()}]
    once = [{n: t for n, t in w.items() if n != "one.weight"} for w in both]
    records = [[v.to_record() for v in from_checkpoints(model, w, {"x": x})] for w in (both, once)]
    assert records[0] == records[1]
    both[1]["two.weight"] = both[1]["two.weight"] + 1
    with pytest.raises(ConfigurationError, match="one tensor"):
        list(from_checkpoints(model, both, {"x": x}))


def test_weights_of_lower_precision_are_converted_exactly(small):
    training, weights = small
    single = [{n: t.float() for n, t in w.items()} for w in weights]
    view = list(from_checkpoints(training.model, single, training.eval_sets))[-1]
    assert view.predictions("test").dtype == torch.float64
    model = copy.deepcopy(training.model).float()
    inputs = {n: x.float() for n, x in training.eval_sets.items()}
    with pytest.raises(ConfigurationError, match="convert the model to"):
        list(from_checkpoints(model, weights, inputs))


def test_damaged_missing_and_foreign_files_are_refused_at_once(small, tmp_path):
    training, weights = small
    paths = on_disk(weights, tmp_path)
    content = paths[1].read_bytes()
    pickled = pickle.dumps({"first.weight": [1.0]})
    for damaged in (content[:-8], content[:5], b"", b"\xff" * 64, pickled):
        paths[1].write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"checkpoint 1 .*save the weights again"):
            from_checkpoints(training.model, paths, training.eval_sets)
    torch.save(weights[1], paths[1])
    with pytest.raises(ArtifactError, match="not safetensors"):
        from_checkpoints(training.model, paths, training.eval_sets)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ArtifactError, match="no such file"):
            from_checkpoints(training.model, [paths[0], missing], training.eval_sets)


def test_weights_of_another_model_are_refused(small, tmp_path):
    training, weights = small

    def refused(error, match, **change):
        other = {**weights[1], **change}
        other = {name: t for name, t in other.items() if t is not None}
        for saved in ([weights[0], other], on_disk([weights[0], other], tmp_path)):
            with pytest.raises(error, match=match):
                from_checkpoints(training.model, saved, training.eval_sets)

    refused(ConfigurationError, "lacks first.bias", **{"first.bias": None})
    refused(ConfigurationError, "holds extra, unknown", extra=torch.zeros(1))
    refused(ShapeError, r"\(2,\), the model has \(6,\)", **{"first.bias": torch.zeros(2)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"checkpoints": []}, "at least two"),
        ({"checkpoints": "run.safetensors"}, "sequence"),
        ({"checkpoints": [1, 2]}, "checkpoint 0 is of type int"),
        ({"checkpoints": [{"a": 1}, {"a": 1}]}, "type int"),
        ({"steps": [0, 1, 2]}, "3 steps for 4"),
        ({"steps": [0, 2, 2, 3]}, "must increase, got 2 after 2"),
        ({"steps": [0, 2, 1, 3]}, "must increase, got 1 after 2"),
        ({"steps": [0.0, 1.0, 2.0, 3.0]}, "integers"),
        ({"inputs": {}}, "at least one"),
        ({"inputs": {"a/b": torch.zeros(1, 4)}}, "without '/'"),
        ({"order": 3}, "order"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"form": "dense"}, "form"),
    ],
)
def test_wrong_arguments_are_refused(change, match, small):
    training, weights = small
    arguments = {"checkpoints": weights, "inputs": training.eval_sets, **change}
    with pytest.raises(ConfigurationError, match=match):
        from_checkpoints(training.model, **arguments)


def test_live_state_dicts_are_refused(small):
    training, weights = small
    live = training.model.state_dict()
    with pytest.raises(ConfigurationError, match="share memory"):
        from_checkpoints(training.model, [weights[0], live, live], training.eval_sets)


def test_frozen_parameters_must_not_move(small):
    training, weights = small
    training.model.first.weight.requires_grad_(False)
    with pytest.raises(ConfigurationError, match=r"first.weight is frozen"):
        list(from_checkpoints(training.model, weights, training.eval_sets))
    same = [{**w, "first.weight": weights[0]["first.weight"]} for w in weights]
    series = from_checkpoints(training.model, same, training.eval_sets)
    assert series.layers["first"] == ("first.bias",)
    assert len(list(series)) == 4


def test_models_that_do_not_fit_are_refused(small):
    training, weights = small
    with pytest.raises(ModelError, match=r"nn\.Module"):
        from_checkpoints(torch.tanh, weights, training.eval_sets)
    with pytest.raises(ModelError, match="requires_grad_"):
        from_checkpoints(training.model.requires_grad_(False), weights, training.eval_sets)


def test_inputs_and_weights_that_do_not_fit_are_refused(small):
    training, weights = small
    with pytest.raises(ShapeError, match=r"train_inputs"):
        from_checkpoints(
            training.model, weights, training.eval_sets, train_inputs=torch.zeros(2, 4)
        )
    weights[2]["first.bias"][0] = float("nan")
    with pytest.raises(NonFiniteError, match="checkpoint 2"):
        list(from_checkpoints(training.model, weights, training.eval_sets))


def test_unknown_sets_and_orders_are_refused(small):
    training, weights = small
    view = next(iter(from_checkpoints(training.model, weights, training.eval_sets)))
    for read in (view.predictions, view.telescoped, view.linearized, view.contributions):
        with pytest.raises(ConfigurationError, match="no set named 'train'"):
            read("train")
    with pytest.raises(ConfigurationError, match="order"):
        view.telescoped("test", 3)


def test_the_name_is_public():
    assert "from_checkpoints" in telescope_core.__all__
    assert telescope_core.from_checkpoints is from_checkpoints
