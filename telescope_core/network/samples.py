"""Sets of rows from what people have: tensors, datasets, and loaders of batches with targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, default_collate

from telescope_core.arguments import check_integer
from telescope_core.errors import ConfigurationError, ShapeError
from telescope_core.network.inputs import Inputs, Rows, count_rows, is_in_memory, leaves, take_rows
from telescope_core.network.streams import own_streams

ROWS_OF_A_LOADER = 1000
"""How many rows of a loader are followed where nothing else is said."""

TARGETS = ("label", "labels", "label_ids", "target", "targets", "y")
"""Entries of a batch that hold what outputs are compared with."""

Source = Inputs | DataLoader[Any] | IterableDataset[Any]
"""Where the rows of a set come from."""


def check_sources(train_inputs: object, eval_rows: object) -> None:
    """Refuse a training set without positions, or a number of rows that is none.

    Raises:
        ConfigurationError: It is a loader or a stream; neither ``None`` nor a positive integer.
    """
    if isinstance(train_inputs, DataLoader | IterableDataset):
        raise ConfigurationError(
            f"train_inputs is a {type(train_inputs).__name__}, whose rows have no positions; pass "
            "the dataset or tensors, or leave it out and follow predictions only"
        )
    if eval_rows is not None:
        check_integer("eval_rows", eval_rows, 1, "rows of each evaluation set; None for all")


def sampled(name: str, source: Source, most: int | None, device: torch.device) -> Inputs:
    """A fixed sample of a set, the same at every call.

    Tensors and datasets are taken as they are where they are small enough, and else at evenly
    spaced rows.  Of a loader whole batches are made at such rows, in its own way of collating, and
    what they hold beside the inputs is left out: of a pair the second, of a mapping its targets.

    Args:
        name: The set, for messages.
        source: Where its rows come from.
        most: Rows to take; ``None`` for all, or 1000 of a loader.
        device: Where the rows of a loader go.

    Returns:
        Rows in memory, or a dataset.

    Raises:
        ShapeError: A loader gives no tensors.
    """
    if isinstance(source, DataLoader | IterableDataset):
        return _of_loader(name, source, most or ROWS_OF_A_LOADER, device)
    if most is None or not _is_sized(source) or count_rows(source) <= most:
        return source
    positions = _spaced(count_rows(source), most)
    if is_in_memory(source):
        return take_rows(source, positions, leaves(cast(Rows, source))[0].device)
    return Subset(cast(Any, source), positions.tolist())


def _of_loader(name: str, loader: Any, most: int, device: torch.device) -> Rows:
    dataset = getattr(loader, "dataset", loader)
    if isinstance(dataset, IterableDataset):
        with own_streams():
            rows = _joined(name, [inputs_of(name, batch) for batch in _first(loader, most)])
    else:
        rows = inputs_of(name, spaced_batch(loader, most))
    moved = [leaf.to(device)[:most] for leaf in leaves(rows)]
    if isinstance(rows, Tensor):
        return moved[0]
    return dict(zip(rows, moved, strict=True)) if isinstance(rows, Mapping) else tuple(moved)


def spaced_batch(loader: Any, most: int) -> Any:
    """One batch as the loader collates it, targets included.

    Args:
        loader: A loader of batches.
        most: How many evenly spaced rows; of a stream its first batch is taken.

    Returns:
        The batch.
    """
    dataset = loader.dataset
    with own_streams():
        if isinstance(dataset, IterableDataset):
            return next(iter(loader))
        positions = _spaced(len(dataset), min(most, len(dataset))).tolist()
        return (loader.collate_fn or default_collate)([dataset[i] for i in positions])


def _first(loader: Any, most: int) -> Iterable[Any]:
    """Batches until there are enough rows; the items of a bare dataset as one batch."""
    if not isinstance(loader, DataLoader):
        yield default_collate(list(islice(loader, most)))
        return
    seen = 0
    for batch in loader:
        yield batch
        seen += len(_tensors_in(batch)[0])
        if seen >= most:
            return


def inputs_of(name: str, batch: Any) -> Rows:
    """The inputs of a batch, without what it holds beside them."""
    inputs: Any = batch
    if isinstance(batch, Mapping):
        inputs = {k: v for k, v in batch.items() if k not in TARGETS and isinstance(v, Tensor)}
    elif isinstance(batch, list | tuple):
        inputs = batch[0]
        if isinstance(inputs, list | tuple):
            inputs = tuple(inputs)
    if not _tensors_in(inputs):
        raise ShapeError(
            f"a batch of {name!r} is {type(batch).__name__} without tensors of inputs; expected a "
            "tensor, a pair of inputs and targets, or a mapping"
        )
    return cast(Rows, inputs)


def _tensors_in(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(batch, Mapping | list | tuple):
        return []
    return [leaf for part in parts for leaf in _tensors_in(part)]


def _joined(name: str, batches: list[Rows]) -> Rows:
    first = batches[0]
    try:
        joined = [torch.cat(parts) for parts in zip(*map(leaves, batches), strict=True)]
    except RuntimeError as error:
        raise ShapeError(
            f"batches of {name!r} have rows of different shapes ({error}); pass eval_rows of at "
            "most one batch, or rows of one length"
        ) from error
    if isinstance(first, Tensor):
        return joined[0]
    return dict(zip(first, joined, strict=True)) if isinstance(first, Mapping) else tuple(joined)


def _spaced(count: int, most: int) -> Tensor:
    """Positions of so many rows, evenly spaced."""
    return torch.arange(most) * count // most


def _is_sized(source: object) -> bool:
    return is_in_memory(source) or hasattr(source, "__len__")
