"""Operations in place of kernels without derivatives: the same values and gradients, and more."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from telescope_core.network.differentiable import INSTEAD_OF_KERNELS, INSTEAD_OF_RENORM, Instead

D = torch.float64


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=D)


def indices(*shape):
    count = torch.Size(shape).numel()
    return (torch.arange(count) * 5 % 7 % 6).reshape(shape)


OFFSETS = torch.tensor([0, 3, 3, 5])
BAGS = {
    "rows": lambda w, mode: functional.embedding_bag(indices(4, 3), w, mode=mode),
    "padded": lambda w, mode: functional.embedding_bag(indices(4, 3), w, mode=mode, padding_idx=-3),
    "offsets": lambda w, mode: functional.embedding_bag(indices(9), w, OFFSETS, mode=mode),
    "last offset": lambda w, mode: functional.embedding_bag(
        indices(7), w, torch.tensor([0, 2, 7]), mode=mode, include_last_offset=True
    ),
}


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("form", BAGS)
def test_bags_of_rows(form, mode):
    assert_same(lambda w: BAGS[form](w, mode), random(6, 3))


def test_weights_of_rows_in_a_bag():
    table = random(6, 2)

    def bag(weights):
        return functional.embedding_bag(
            indices(4, 3), table, per_sample_weights=weights, mode="sum", padding_idx=2
        )

    assert_same(bag, random(4, 3, seed=3))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("total", [None, 7])
def test_packed_sequences(batch_first, total):
    lengths = torch.tensor([2, 5, 1])

    def there_and_back(x):
        x = x if batch_first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
        packed = packed._replace(data=packed.data**2)
        padded, back = pad_packed_sequence(packed, batch_first, 3.0, total)
        assert torch.equal(back, lengths)
        return padded

    assert_same(there_and_back, random(3, 5, 2))


MATRIX = random(4, 5) * (random(4, 5, seed=1) > 0)
PRODUCTS = {
    "matmul": lambda a, x: a @ x,
    "mm": torch.mm,
    "spmm": torch.spmm,
    "sparse.mm": torch.sparse.mm,
    "addmm": lambda a, x: torch.addmm(torch.ones(4, 3, dtype=D), a, x, alpha=2, beta=3),
    "vector": lambda a, x: a @ x[:, 0],
    "method": lambda a, x: a.matmul(x),
}


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize("call", PRODUCTS)
@pytest.mark.filterwarnings("ignore:Sparse CS")
def test_products_with_sparse_matrices(call, layout):
    sparse = MATRIX.to_sparse(layout=layout)
    expected = PRODUCTS[call](MATRIX, random(5, 3))
    with Instead(INSTEAD_OF_KERNELS):
        torch.testing.assert_close(PRODUCTS[call](sparse, random(5, 3)), expected)
        assert_derivatives(lambda x: PRODUCTS[call](sparse, x), random(5, 3))


def test_a_sparse_matrix_on_the_right():
    sparse = MATRIX.to_sparse()
    with Instead(INSTEAD_OF_KERNELS):
        torch.testing.assert_close(random(3, 4) @ sparse, random(3, 4) @ MATRIX)


def test_rows_are_shortened_without_writing_to_the_table():
    kept = random(6, 3)
    table = kept.clone()
    with Instead(INSTEAD_OF_RENORM):
        rows = functional.embedding(indices(4, 2), table, max_norm=0.7)
        bags = functional.embedding_bag(indices(4, 2), table, max_norm=0.7)
    assert torch.equal(table, kept)
    torch.testing.assert_close(functional.embedding(indices(4, 2), table, max_norm=0.7), rows)
    torch.testing.assert_close(functional.embedding_bag(indices(4, 2), kept, max_norm=0.7), bags)


def test_the_module_that_shortens_rows_is_left_alone():
    model = nn.Embedding(6, 3, max_norm=0.7, dtype=D)
    kept = model.weight.detach().clone()
    with Instead(INSTEAD_OF_RENORM):
        model(indices(4))
    assert torch.equal(model.weight, kept)


def assert_same(call, x):
    """Values and gradients as of torch's own kernels; forward and second derivatives besides."""
    ends = []
    for otherwise in (False, True):
        leaf = x.clone().requires_grad_()
        with Instead(INSTEAD_OF_KERNELS if otherwise else {}):
            out = call(leaf)
        (gradient,) = torch.autograd.grad(out.square().sum(), leaf)
        ends.append((out.detach(), gradient))
    for ours, torchs in zip(*ends, strict=True):
        torch.testing.assert_close(ours, torchs)
    with Instead(INSTEAD_OF_KERNELS):
        assert_derivatives(call, x)


def assert_derivatives(call, x):
    """Batched forward mode, over reverse mode too, by differences."""
    V, step = torch.stack([random(*x.shape, seed=s) for s in (4, 5)]), 1e-6

    def gradient(z):
        return torch.func.grad(lambda at: (call(at) ** 3).sum())(z)

    for function in (call, gradient):
        pushed = torch.func.vmap(lambda v, f=function: torch.func.jvp(f, (x,), (v,))[1])(V)
        for v, derivative in zip(V, pushed, strict=True):
            ends = [function(x + sign * step * v) for sign in (1, -1)]
            torch.testing.assert_close(
                derivative, (ends[0] - ends[1]) / (2 * step), atol=1e-6, rtol=1e-5
            )
