"""Rows of tables, in operations that have every derivative and write to no table.

With ``max_norm`` torch shortens the rows that it looks up in the table itself, whoever looks; here
that is a part of the function instead.  Bags of rows have no forward derivative in torch's kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-7  # as in torch's own kernel


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """``functional.embedding``."""
    options = (padding_idx, None, norm_type, scale_grad_by_freq, sparse)
    return _shortened(functional.embedding(input, weight, *options), max_norm, norm_type)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """``functional.embedding_bag``."""
    entries = input.reshape(-1)
    if offsets is None:
        bags = len(input)
        of_bag = torch.arange(bags, device=input.device).repeat_interleave(input.shape[1])
    else:
        bags = len(offsets) - include_last_offset
        places = torch.arange(len(entries), device=input.device)
        of_bag = torch.searchsorted(offsets[:bags].contiguous(), places, right=True) - 1
    if padding_idx is not None:
        kept = (entries != padding_idx % len(weight)).nonzero()[:, 0]
        entries, of_bag = entries[kept], of_bag[kept]
    rows = _shortened(functional.embedding(entries, weight), max_norm, norm_type)
    if per_sample_weights is not None:
        weights = per_sample_weights.reshape(-1)
        rows = rows * (weights if padding_idx is None else weights[kept])[:, None]
    empty = rows.new_zeros(bags, rows.shape[1])
    if mode == "max":
        index = of_bag[:, None].expand_as(rows)
        return empty.scatter_reduce(0, index, rows, "amax", include_self=False)
    total = empty.index_add(0, of_bag, rows)
    if mode == "sum":
        return total
    return total / torch.bincount(of_bag, minlength=bags).clamp(min=1).to(rows)[:, None]


def _shortened(rows: Tensor, max_norm: float | None, norm_type: float) -> Tensor:
    if max_norm is None:
        return rows
    norms = torch.linalg.vector_norm(rows, norm_type, dim=-1, keepdim=True)
    return torch.where(norms > max_norm, rows * (max_norm / (norms + _TINY)), rows)
