"""What moved between two checkpoints: contributions of layers, gradients, buffers; kernel norms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from telescope_core.jacobians import LinearizedRows, Linearizer, RowSet
from telescope_core.kernels import kernel_row_norms
from telescope_core.network.inputs import Inputs
from telescope_core.network.layout import ParameterLayout

Layers = Mapping[str, tuple[str, ...]]
"""Names of parameters by layer."""

# Memory for columns made at once.
_COLUMN_BUDGET_BYTES = 256 * 2**20
# A row's gradients are pulled back together with those of this many rows at most.
_ROWS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Point:
    """A checkpoint: its own copy of the model, linearised on every set.

    Attributes:
        model: The copy, with the checkpoint's weights and buffers.
        linearizer: Of the copy.
        theta: Its trained parameters, shape ``(p,)``.
        sets: The sets, by name.
        rows: Each set linearised at ``theta``.
        outputs: Each set's outputs, shape ``(rows, k)``.
    """

    model: nn.Module
    linearizer: Linearizer
    theta: Tensor
    sets: dict[str, RowSet]
    rows: dict[str, LinearizedRows]
    outputs: dict[str, Tensor]


def buffer_change(before: Point, now: Point, name: str) -> Tensor:
    """How far new buffers moved the outputs on a set, at the new θ; zero if none changed."""
    held = dict(before.model.named_buffers())
    if all(torch.equal(buffer, held[n]) for n, buffer in now.model.named_buffers()):
        return now.outputs[name].new_zeros(1)
    return now.outputs[name] - before.sets[name].outputs(now.theta)


def layer_contributions(
    before: Point, now: Point, name: str, order: int, layout: ParameterLayout, layers: Layers
) -> dict[str, Tensor]:
    """``J̄_l Δθ_l`` per layer on a set, shape ``(rows, k)`` (Eq. 5 i, split by parameters)."""
    delta = now.theta - before.theta
    names = list(layers)
    at_once = _columns_at_once(layout)
    pieces = []
    for start in range(0, len(names), at_once):
        chosen = names[start : start + at_once]
        columns = delta.new_zeros(layout.size, len(chosen))
        for column, layer in enumerate(chosen):
            for parameter in layers[layer]:
                rows = layout.by_name[parameter].rows
                columns[rows, column] = delta[rows]
        moved = before.rows[name].jvp(columns)
        if order == 2:
            moved = 0.5 * (moved + now.rows[name].jvp(columns))
        pieces.append(moved)
    return dict(zip(names, torch.cat(pieces, dim=-1).unbind(-1), strict=True))


def gradient_change(
    before: LinearizedRows, now: LinearizedRows, layout: ParameterLayout, layers: Layers
) -> dict[str, float]:
    """Mean squared difference of ∂f_j(x)/∂θ_q over rows x, outputs j and a layer's q (Fig. 6)."""
    sums = torch.zeros(len(layout.segments), dtype=torch.float64)
    gradients = 0
    for old, new in zip(before.parts(), now.parts(), strict=True):
        count, k = new.outputs.shape
        # b rows take b·k columns, each of the size of θ.
        at_once = max(1, min(_ROWS_AT_ONCE, _columns_at_once(layout) // k))
        gradients += count * k
        for start in range(0, count, at_once):
            index = torch.arange(start, min(start + at_once, count), device=new.outputs.device)
            m = len(index) * k
            one_hot = torch.eye(m, dtype=layout.dtype, device=index.device)
            columns = one_hot.view(len(index), k, m)
            change = new.rows(index).vjp(columns) - old.rows(index).vjp(columns)
            squares = change.double().square_().sum(dim=1)
            sums += torch.stack([squares[s.rows].sum() for s in layout.segments]).cpu()
    total = dict(zip(layout.by_name, sums.tolist(), strict=True))
    return {
        layer: sum(total[n] for n in names)
        / (gradients * sum(layout.by_name[n].size for n in names))
        for layer, names in layers.items()
    }


def kernel_norms(
    now: Point,
    name: str,
    train_inputs: Inputs,
    layout: ParameterLayout,
    chunk_size: int | None,
) -> Tensor:
    """``‖k(x)‖`` with k(x) = [(1/n) J(x) J(x_i)ᵀ]_i at a checkpoint, shape ``(rows,)``."""
    k = now.linearizer.function.k
    # A column is as long as θ before it is pushed forward, and as the set's outputs after.
    chunk = max(1, _columns_at_once(layout, len(now.sets[name]) * k) // k)
    chunk = min(chunk, chunk_size or chunk)
    training = RowSet(now.linearizer, train_inputs, chunk, now.theta.device)
    squares = now.theta.new_zeros(len(now.sets[name]))
    for part in training.linearize(now.theta).parts():
        squares += (kernel_row_norms(now.rows[name], part, None) * len(part.outputs)).square()
    return squares.sqrt() / len(training)


def _columns_at_once(layout: ParameterLayout, entries: int = 0) -> int:
    width = max(layout.size, entries)
    return max(1, _COLUMN_BUDGET_BYTES // (width * layout.dtype.itemsize))
