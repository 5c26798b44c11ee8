"""A lens restored from its state goes on bit for bit, also from inside a block."""

import json

import pytest
import safetensors.torch
import torch

from telescope_core.errors import ConfigurationError, TrainingMismatchError
from telescope_core.testing import Scenario

CASES = {
    "exact-adamw": (
        Scenario("mlp-outputs", "adamw", "cross-entropy"),
        {"stride": 4, "kernel_norms": True},
    ),
    "exact-momentum": (Scenario("mlp-vector", "sgd-nesterov", "mse"), {"stride": 4}),
    "first-order": (Scenario("mlp-vector", "adam-groups", "huber"), {"order": 1, "stride": 3}),
    "probes": (
        Scenario("mlp-outputs", "sgd-groups", "mse"),
        {"probes": 6, "deflate": 2, "stride": 4},
    ),
    "displacements": (
        Scenario("mlp-vector", "sgd-momentum", "mse"),
        {"probes": 6, "deflate": 2, "stride": 4},
    ),
    "predictions-only": (Scenario("mlp-vector", "adam", "mse"), {"probes": None, "stride": 4}),
    "torch.func": (Scenario("tied", "adamw", "mse", schedule="after"), {"stride": 3}),
    "function-space": (
        Scenario("mlp-vector", "sgd", "mse", batch_size=None),
        {"stride": 4, "strategy": "auto"},
    ),
    "function-space-batches": (
        Scenario("mlp-outputs", "sgd", "mse"),
        {"stride": 4, "strategy": "function-space"},
    ),
    "function-space-momentum": (
        Scenario("mlp-outputs", "sgd-momentum", "mse"),
        {"probes": 6, "deflate": 2, "stride": 4, "strategy": "function-space"},
    ),
}


def through_files(state_dict):
    """What survives safetensors and JSON."""
    tensors = safetensors.torch.load(safetensors.torch.save(state_dict["tensors"]))
    return {"tensors": tensors, "state": json.loads(json.dumps(state_dict["state"]))}


def everything(lens):
    arrays = [f(name) for name in lens.sets for f in (lens.telescoped, lens.linearized)]
    return arrays, lens.snapshot().to_record(), lens.state_dict()


def assert_same_bits(one, other):
    (arrays, record, state), (arrays_2, record_2, state_2) = one, other
    assert all(torch.equal(a, b) for a, b in zip(arrays, arrays_2, strict=True))
    assert record == record_2
    assert state["state"] == state_2["state"]
    assert state["tensors"].keys() == state_2["tensors"].keys()
    for name, tensor in state["tensors"].items():
        assert tensor.dtype == state_2["tensors"][name].dtype
        assert torch.equal(tensor, state_2["tensors"][name]), name


@pytest.mark.parametrize("moment", [0, 1, 4, 6])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(case, moment, lens_of):
    scenario, options = CASES[case]
    whole = scenario.start()
    lens = lens_of(whole, **options)
    whole.run(lens)
    expected = everything(lens)

    interrupted = scenario.start()
    lens = lens_of(interrupted, **options)
    interrupted.run(lens, steps=moment)
    saved = through_files(lens.state_dict())
    model_state = {k: v.clone() for k, v in interrupted.model.state_dict().items()}
    optimizer_state = interrupted.optimizer.state_dict()

    resumed = scenario.start()
    resumed.model.load_state_dict(model_state)
    resumed.optimizer.load_state_dict(optimizer_state)
    resumed.done = moment
    lens = lens_of(resumed, **options)
    lens.load_state_dict(saved)
    assert lens.steps == moment
    resumed.run(lens)
    assert_same_bits(everything(lens), expected)


@pytest.mark.parametrize("case", ["exact-adamw", "probes", "function-space", "predictions-only"])
def test_the_restored_lens_reads_as_the_saved_one(case, lens_of):
    scenario, options = CASES[case]
    training = scenario.start()
    lens = lens_of(training, **options)
    training.run(lens, steps=6)
    before = everything(lens)
    other = lens_of(training, **options)
    other.load_state_dict(through_files(before[2]))
    assert_same_bits(everything(other), before)


def test_a_state_is_a_copy_and_reading_it_does_not_disturb_the_run(lens_of):
    training = Scenario("mlp-vector", "adamw", "mse").start()
    lens = lens_of(training, stride=4)
    training.run(lens, steps=6)
    saved = lens.state_dict()
    model_state = {k: v.clone() for k, v in training.model.state_dict().items()}
    copy = {name: tensor.clone() for name, tensor in saved["tensors"].items()}
    training.run(lens)
    assert all(torch.equal(saved["tensors"][name], copy[name]) for name in copy)
    lens_2 = lens_of(training, stride=4)
    lens_2.load_state_dict(saved)
    with pytest.raises(TrainingMismatchError, match="loaded"):
        lens_2.snapshot()  # the model has gone on since
    training.model.load_state_dict(model_state)
    lens_2.snapshot()
    assert all(torch.equal(saved["tensors"][name], copy[name]) for name in copy)


@pytest.mark.parametrize(
    "changed",
    [
        {"order": 1},
        {"stride": 5},
        {"probes": 4},
        {"probes": None},
        {"seed": 3, "probes": 6},
        {"kernel_norms": True},
    ],
    ids=str,
)
def test_a_state_of_another_lens_is_refused(changed, lens_of):
    training = Scenario("mlp-vector", "adamw", "mse").start()
    options = {"order": 2, "stride": 4, "probes": 6, "kernel_norms": False}
    lens = lens_of(training, **options)
    training.run(lens, steps=3)
    other = lens_of(training, **{**options, **changed})
    key = next(iter(changed))
    with pytest.raises(ConfigurationError, match=key):
        other.load_state_dict(lens.state_dict())


def test_a_state_of_other_sets_or_another_model_is_refused(lens_of):
    training = Scenario("mlp-vector", "adamw", "mse").start()
    lens = lens_of(training)
    training.run(lens, steps=3)
    saved = lens.state_dict()
    fewer = Scenario("mlp-vector", "adamw", "mse", eval_rows=2).start()
    with pytest.raises(ConfigurationError, match="sets"):
        lens_of(fewer).load_state_dict(saved)
    larger = Scenario("mlp-outputs", "adamw", "mse").start()
    with pytest.raises(ConfigurationError, match="parameters"):
        lens_of(larger).load_state_dict(saved)


def test_a_damaged_state_is_refused_with_an_error_of_the_library(lens_of):
    training = Scenario("mlp-vector", "adamw", "mse").start()
    lens = lens_of(training)
    training.run(lens, steps=3)
    for damage in ("missing tensor", "wrong shape", "no state"):
        saved = lens.state_dict()
        if damage == "missing tensor":
            del saved["tensors"]["theta_0"]
        elif damage == "wrong shape":
            saved["tensors"]["theta_0"] = saved["tensors"]["theta_0"][:-1]
        else:
            del saved["state"]
        before = lens.snapshot().to_record()
        with pytest.raises(ConfigurationError):
            lens.load_state_dict(saved)
        assert lens.snapshot().to_record() == before
