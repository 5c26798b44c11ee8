"""Saved weights: what files may hold, and what is refused before anything is computed."""

import copy
import pickle

import pytest
import torch
from torch import nn

import telescope_core
from support.saved_runs import on_disk, small_run, weights_of
from telescope_core import from_checkpoints
from telescope_core.errors import (
    ArtifactError,
    ConfigurationError,
    ModelError,
    NonFiniteError,
    ShapeError,
)


@pytest.fixture
def small():
    return small_run()


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
