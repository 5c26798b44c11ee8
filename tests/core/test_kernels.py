"""Norms of tangent-kernel rows against rows written out densely."""

import pytest
import torch

from telescope_core.testing import Scenario
from telescope_core.testing.dense import dense_jacobian


def dense_rows(J, J_batch, preconditioner):
    """The block of k_t that can be non-zero: J P J_Bᵀ, (rows·k, b·k)."""
    return sum((J[key] * preconditioner[key]) @ J_batch[key].T for key in J)


def preconditioner_of(training):
    """1/φ_t of Adam after its step, one of SGD."""
    result = {}
    for group in training.optimizer.param_groups:
        for parameter in group["params"]:
            name = next(k for k, p in training.model.named_parameters() if p is parameter)
            result[name] = torch.ones(parameter.numel(), dtype=torch.float64)
            if "betas" in group:
                state = training.optimizer.state[parameter]
                v = state["exp_avg_sq"] / (1 - group["betas"][1] ** float(state["step"]))
                result[name] = 1 / (v.sqrt() + group["eps"]).reshape(-1)
    return result


@pytest.mark.parametrize("probes", [None, 3, "exact"], ids=str)
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize(
    ("specimen", "optimizer", "loss", "batch"),
    [
        ("mlp-vector", "sgd-momentum", "mse", 3),
        ("mlp-outputs", "adamw-groups", "cross-entropy", 3),
        ("tied", "adam-decay", "mse", None),
    ],
)
def test_norms_equal_dense_rows(specimen, optimizer, loss, batch, stride, probes, lens_of):
    """One sample at the first step of each block: mean and maximum over rows, mean over samples."""
    training = Scenario(specimen, optimizer, loss, batch_size=batch).start()
    lens = lens_of(training, probes=probes, stride=stride, kernel_norms=True)
    sets = {"train": training.train_inputs, **training.eval_sets}
    norms = {name: [] for name in sets}
    for number, index in enumerate(training.batches):
        J = {name: dense_jacobian(training.model, x) for name, x in sets.items()}
        J_batch = dense_jacobian(training.model, training.train_inputs[index])
        training.run(lens, steps=1)
        if number % stride == 0:
            P = preconditioner_of(training)
            for name, x in sets.items():
                rows = dense_rows(J[name], J_batch, P).reshape(len(x), -1)
                norms[name].append(rows.norm(dim=1) / len(index))
        record = lens.snapshot().to_record()
        for name in sets:
            sampled = torch.stack(norms[name])
            mean, largest = float(sampled.mean()), float(sampled.amax(dim=1).mean())
            assert record[f"{name}/kernel_norm_mean"] == pytest.approx(mean, rel=1e-10)
            assert record[f"{name}/kernel_norm_max"] == pytest.approx(largest, rel=1e-10)
    assert 0 < record["test/kernel_norm_mean"] < record["test/kernel_norm_max"]


def test_without_the_option_there_are_no_norms(lens_of):
    training = Scenario().start()
    lens = lens_of(training)
    training.run(lens)
    assert not [key for key in lens.snapshot().to_record() if "kernel" in key]


def test_function_space_measures_them_too(lens_of):
    training = Scenario("mlp-vector", "sgd", "mse", batch_size=None).start()
    one = lens_of(training, strategy="function-space", stride=4, kernel_norms=True)
    two = lens_of(training, strategy="parameter-space", stride=4, kernel_norms=True)
    training.run(one, two)
    key = "other/kernel_norm_max"
    assert one.snapshot().to_record()[key] == two.snapshot().to_record()[key] > 0
