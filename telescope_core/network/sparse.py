"""Products with sparse matrices by their entries: torch's kernels lack forward derivatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

_OUTSIDE_OF_TRANSFORMS: Any = torch._C._DisableFuncTorch


def is_sparse(value: object) -> bool:
    """Whether it is a tensor in a sparse layout."""
    return isinstance(value, Tensor) and value.layout is not torch.strided


def copied(tensor: Tensor) -> Tensor:
    """A copy; of a sparse tensor a shared one, since ``torch.func`` copies none."""
    return tensor if is_sparse(tensor) else tensor.clone()


def values_of(tensor: Tensor) -> Tensor:
    """The values of a sparse tensor, which share its memory."""
    return tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``, one of them a sparse matrix and the other dense, two dimensions or one."""
    if not is_sparse(a):
        moved = product(b.t(), a.t() if a.ndim == 2 else a)
        return moved.t() if a.ndim == 2 else moved
    with _OUTSIDE_OF_TRANSFORMS():  # which know no sparse layouts, nor look at what is constant
        rows, columns, values = _entries(a)
    terms = b[columns] * (values[:, None] if b.ndim == 2 else values)
    return terms.new_zeros(a.shape[0], *b.shape[1:]).index_add(0, rows, terms)


def _entries(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, column and value of every entry."""
    if a.layout is torch.sparse_csr:
        return _places(a.crow_indices()), a.col_indices(), a.values()
    if a.layout is torch.sparse_csc:
        return a.row_indices(), _places(a.ccol_indices()), a.values()
    entries = a if a.layout is torch.sparse_coo else a.to_sparse()
    rows, columns = entries._indices()
    return rows, columns, entries._values()


def _places(compressed: Tensor) -> Tensor:
    counts = compressed.diff()
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


def _multiplied(call: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    if len(args) == 2 and not options and is_sparse(args[0]) != is_sparse(args[1]):
        return product(*args)
    return call(*args, **options)


def _multiplied_from_right(call: Callable[..., Tensor], *args: Any) -> Tensor:
    return product(*args[::-1]) if is_sparse(args[0]) != is_sparse(args[1]) else call(*args)


def _added(
    call: Callable[..., Tensor],
    input: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    **options: Any,
) -> Tensor:
    if not options and is_sparse(a) != is_sparse(b):
        return beta * input + alpha * product(a, b)
    return call(input, a, b, beta=beta, alpha=alpha, **options)


_PRODUCTS: tuple[Callable[..., Any], ...] = (
    torch.mm,
    torch.matmul,
    torch.spmm,
    torch.mv,
    torch.sparse.mm,
    Tensor.mm,
    Tensor.matmul,
    Tensor.mv,
    Tensor.__matmul__,
)
_SUMS: tuple[Callable[..., Any], ...] = (torch.addmm, torch.sparse.addmm, Tensor.addmm)

INSTEAD_OF_SPARSE: Mapping[Callable[..., Any], Callable[..., Any]] = {
    **{call: partial(_multiplied, call) for call in _PRODUCTS},
    **{call: partial(_added, call) for call in _SUMS},
    Tensor.__rmatmul__: partial(_multiplied_from_right, Tensor.__rmatmul__),
}
"""What multiplies by entries, in place of kernels for sparse matrices."""
