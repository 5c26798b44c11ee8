"""The tangent kernel and norms of its rows, against Jacobians written out densely."""

import pytest
import torch

from telescope_core import TangentKernel, tangent_kernel
from telescope_core.errors import (
    ConfigurationError,
    MemoryBudgetError,
    ModelError,
    NonFiniteError,
    ShapeError,
)
from telescope_core.testing import SPECIMENS, Scenario
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


def jacobian(model, inputs):
    """All derivatives by torch.func, the trained parameters one after the other: (rows, k, p)."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def outputs(values):
        return torch.func.functional_call(model, values, (inputs,)).reshape(len(inputs), -1)

    return torch.cat([j.flatten(2) for j in torch.func.jacrev(outputs)(trained).values()], dim=2)


def assert_kernel(kernel, J, J_other):
    expected = torch.einsum("rap,sbp->rasb", J, J_other)
    assert kernel.shape == expected.shape
    torch.testing.assert_close(kernel, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("form", ["auto", "functional"])
@pytest.mark.parametrize(
    "name", ["mlp-vector", "mlp-column", "mlp-outputs", "tied", "convolution", "attention"]
)
def test_kernel_is_the_product_of_jacobians(name, form):
    specimen = SPECIMENS[name]
    model, x, other = specimen.model(), specimen.inputs(5, seed=1), specimen.inputs(3, seed=2)
    J, J_other = jacobian(model, x), jacobian(model, other)
    assert_kernel(tangent_kernel(model, x, other, form=form), J, J_other)
    assert_kernel(tangent_kernel(model, x, form=form), J, J)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 100])
def test_chunks_agree(chunk_size):
    specimen = SPECIMENS["convolution"]
    model, x, other = specimen.model(), specimen.inputs(5, seed=1), specimen.inputs(4, seed=2)
    for arguments in ((x,), (x, other), (other, x)):
        chunked = tangent_kernel(model, *arguments, chunk_size=chunk_size)
        torch.testing.assert_close(chunked, tangent_kernel(model, *arguments), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["mlp-vector", "mlp-outputs", "attention"])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_gram_matrix_is_symmetric_and_positive_semidefinite(name, chunk_size):
    specimen = SPECIMENS[name]
    kernel = tangent_kernel(specimen.model(), specimen.inputs(9, seed=1), chunk_size=chunk_size)
    gram = kernel.flatten(0, 1).flatten(1)
    torch.testing.assert_close(gram, gram.T, rtol=1e-12, atol=1e-12)
    values = torch.linalg.eigvalsh(gram)
    assert values[0] >= -1e-12 * values[-1]
    assert values[-1] > 0


def test_only_parameters_that_are_trained_count():
    specimen = SPECIMENS["mlp-outputs"]
    model, x = specimen.model(), specimen.inputs(4, seed=1)
    whole = tangent_kernel(model, x)
    model.first.requires_grad_(False)
    J = jacobian(model, x)
    assert_kernel(tangent_kernel(model, x), J, J)
    assert (whole - tangent_kernel(model, x)).abs().max() > 1e-3


def test_outputs_of_several_dimensions_are_flattened_and_not_reduced():
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 6), torch.nn.Unflatten(1, (3, 2))
    model, x = torch.nn.Sequential(*layers).double(), torch.randn(3, 4, dtype=torch.float64)
    kernel = tangent_kernel(model, x)
    # Of a linear map with bias: <x, x'> + 1 on the diagonal of outputs, nothing beside it.
    expected = torch.einsum("rs,ab->rasb", x @ x.T + 1, torch.eye(6, dtype=torch.float64))
    torch.testing.assert_close(kernel, expected, rtol=1e-12, atol=1e-12)


def test_rows_of_every_kind():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)

        def forward(self, a, b):
            return torch.tanh(self.left(a)) * self.right(b)

    torch.manual_seed(0)
    model, a, b = Sum(), torch.randn(5, 3), torch.randn(5, 2)
    kernel = tangent_kernel(model, (a, b))
    torch.testing.assert_close(tangent_kernel(model, {"a": a, "b": b}), kernel)
    torch.testing.assert_close(tangent_kernel(model, Pairs(a, b), chunk_size=2), kernel)


class Pairs(torch.utils.data.Dataset):
    """A map-style data set of single rows of two inputs."""

    def __init__(self, a, b):
        self.a, self.b = a, b

    def __len__(self):
        return len(self.a)

    def __getitem__(self, index):
        return self.a[index], self.b[index]


def test_model_and_its_gradients_are_left_alone():
    specimen = SPECIMENS["mlp-outputs"]
    model, x = specimen.model().train(), specimen.inputs(4, seed=1)
    model(x).sum().backward()
    before = {name: (p.clone(), p.grad.clone()) for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    kernel = tangent_kernel(model, x)
    assert not kernel.requires_grad
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not module._forward_hooks for module in model.modules())
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name][0])
        assert torch.equal(p.grad, before[name][1])


def test_a_kernel_made_once_follows_the_parameters():
    specimen = SPECIMENS["mlp-outputs"]
    model, x, other = specimen.model(), specimen.inputs(4, seed=1), specimen.inputs(3, seed=2)
    kernel = TangentKernel(model, x)
    first = kernel(x, other)
    assert torch.equal(first, tangent_kernel(model, x, other))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    assert_kernel(kernel(x, other), jacobian(model, x), jacobian(model, other))
    assert not torch.allclose(first, kernel(x, other))
    model.second = torch.nn.Sequential(model.second, torch.nn.Dropout(0.5)).double()
    with pytest.raises(ModelError, match=r"second\.1 \(Dropout\) is in train mode"):
        kernel(x, other)


def test_single_precision_stays_single():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(4, 2), torch.randn(3, 4)
    assert tangent_kernel(model, x).dtype == torch.float32
    assert tangent_kernel(model.double(), x.double()).dtype == torch.float64


class TestRefusals:
    specimen = SPECIMENS["mlp-outputs"]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"chunk_size": 0}, "chunk_size must be an integer of at least 1"),
            ({"chunk_size": 2.0}, "chunk_size must be an integer"),
            ({"form": "dense"}, "form must be one of auto, factors, functional, got 'dense'"),
        ],
    )
    def test_settings(self, options, words):
        with pytest.raises(ConfigurationError, match=words):
            tangent_kernel(self.specimen.model(), self.specimen.inputs(2, seed=0), **options)

    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            (lambda x: x.float(), ShapeError, r"other inputs are torch.float32, .*torch.float64"),
            (lambda x: x[:, :3], ShapeError, r"failed on the first row of the other inputs"),
            (lambda x: x[:0], ShapeError, r"other inputs have shape \(0, 4\)"),
            (iter, ShapeError, r"other inputs must be a tensor, a mapping or tuple .*got"),
            (lambda x: x / 0, NonFiniteError, r"other inputs hold NaN or infinity in 3 of 3 rows"),
        ],
    )
    def test_inputs(self, change, error, words):
        model, x = self.specimen.model(), self.specimen.inputs(3, seed=0)
        with pytest.raises(error, match=words):
            tangent_kernel(model, x, change(x))
        with pytest.raises(error, match=words.replace("other", "given")):
            tangent_kernel(model, change(x))

    def test_models(self):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        linear = torch.nn.Linear(3, 2)
        with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module, got function"):
            tangent_kernel(lambda rows: rows, x)
        with pytest.raises(ModelError, match=r"call eval\(\) on it"):
            tangent_kernel(torch.nn.Sequential(linear, torch.nn.Dropout(0.5)), x)
        with pytest.raises(ModelError, match="depends on the other rows"):
            tangent_kernel(torch.nn.Sequential(linear, torch.nn.BatchNorm1d(2)), x)
        with pytest.raises(ModelError, match=r"no parameter that requires a gradient"):
            tangent_kernel(linear.requires_grad_(False), x)

    def test_outputs_that_are_not_finite(self):
        model, x = self.specimen.model(), self.specimen.inputs(3, seed=0)
        with torch.no_grad():
            model.third.bias.fill_(torch.inf)
        with pytest.raises(NonFiniteError, match="outputs contain NaN or infinity"):
            tangent_kernel(model, x)

    def test_kernels_that_do_not_fit(self):
        # A row repeated without taking memory.
        x = torch.zeros(1, 4).expand(10_000_000, 4)
        with pytest.raises(MemoryBudgetError, match=r"10000000 × 10000000 rows and 2 outputs"):
            tangent_kernel(torch.nn.Linear(4, 2), x)
