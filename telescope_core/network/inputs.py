"""Rows of model input: one tensor, several tensors, or a map-style dataset of rows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from telescope_core.network.streams import own_streams


@dataclass(frozen=True)
class Called:
    """Some of the rows that a model gives when it is called in a way of one's own.

    Attributes:
        call: From the model to what it returns.
        positions: Which rows of the outputs, int64.
    """

    call: Callable[[nn.Module], Any]
    positions: Tensor


Rows = Tensor | Mapping[str, Tensor] | tuple[Tensor, ...] | Called
"""What a model is called with; the first dimension of every tensor counts rows."""

Inputs = Rows | Dataset[Any]
"""All rows of a set; the items of a dataset are single rows."""


def leaves(rows: Rows) -> list[Tensor]:
    """The tensors that make up the rows."""
    if isinstance(rows, Tensor):
        return [rows]
    if isinstance(rows, Called):
        return [rows.positions]
    return list(rows.values() if isinstance(rows, Mapping) else rows)


def is_in_memory(inputs: object) -> bool:
    """Whether the inputs are tensors rather than a dataset."""
    return isinstance(inputs, Tensor | Mapping | tuple | list | Called)


def count_rows(inputs: Inputs) -> int:
    """Number of rows."""
    if is_in_memory(inputs):
        return len(leaves(cast(Rows, inputs))[0])
    return len(cast(Any, inputs))


def take_rows(inputs: Inputs, index: Tensor | slice, device: torch.device) -> Rows:
    """Some rows by position, on the device.

    Args:
        inputs: All rows.
        index: Positions, int64 ``(b,)``, or a slice.
        device: Where rows of a dataset go; tensors stay where they are.

    Returns:
        The rows, in the structure of the inputs or as the dataset's are collated.
    """
    if is_in_memory(inputs):
        at = index if isinstance(index, slice) else index.to(device)
        return map_rows(cast(Rows, inputs), lambda leaf: leaf[at])
    dataset = cast(Any, inputs)
    positions = range(len(dataset))[index] if isinstance(index, slice) else index.tolist()
    with own_streams():
        collated: Rows = default_collate([dataset[i] for i in positions])
    return map_rows(collated, lambda leaf: leaf.to(device))


def map_rows(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    """The same structure with every tensor changed."""
    if isinstance(rows, Tensor):
        return change(rows)
    if isinstance(rows, Called):
        return Called(rows.call, change(rows.positions))
    if isinstance(rows, Mapping):
        return {name: change(leaf) for name, leaf in rows.items()}
    return tuple(change(leaf) for leaf in rows)


def rebuilt(rows: Rows, tensors: Sequence[Tensor]) -> Rows:
    """The same structure with other tensors, in the order of :func:`leaves`."""
    given = iter(tensors)
    return map_rows(rows, lambda _: next(given))


def chunks_of(inputs: Inputs, size: int, device: torch.device) -> Iterator[Rows]:
    """All rows in consecutive chunks of ``size``."""
    for start in range(0, count_rows(inputs), size):
        yield take_rows(inputs, slice(start, start + size), device)


def call_arguments(model: nn.Module, rows: Rows) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How the model is called with these rows.

    A tensor is the only argument and a tuple gives the positional ones.  A mapping gives keyword
    arguments if the model's ``forward`` takes its keys, and is the only argument otherwise.

    Returns:
        Positional and keyword arguments.
    """
    if isinstance(rows, Tensor):
        return (rows,), {}
    assert not isinstance(rows, Called)
    if not isinstance(rows, Mapping):
        return tuple(rows), {}
    taken = _taken_by(model)
    if taken is None or set(rows) <= taken:
        return (), dict(rows)
    return (rows,), {}


def for_model(model: nn.Module, rows: Inputs, without: object = None) -> Inputs:
    """The entries of a batch that a model takes, where a loader gives more beside them.

    Args:
        model: The model.
        rows: Rows of a loader's batches.
        without: The key of an entry that is none of them.

    Returns:
        Of a mapping the arguments of ``forward``; if it names none of them, the only tensor that
        there is; the same rows otherwise.
    """
    if not isinstance(rows, Mapping):
        return rows
    rows = {name: leaf for name, leaf in rows.items() if name != without}
    taken = _taken_by(model)
    if taken is None or set(rows) <= taken:
        return rows
    arguments = {name: leaf for name, leaf in rows.items() if name in taken}
    if arguments:
        return arguments
    return next(iter(rows.values())) if len(rows) == 1 else rows


def _taken_by(model: nn.Module) -> set[str] | None:
    """Names of the arguments of ``forward``; ``None`` for any."""
    parameters = inspect.signature(model.forward).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return None if open_ended else set(parameters)
