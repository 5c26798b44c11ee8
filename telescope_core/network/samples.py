"""Sets of rows from what people have: tensors, datasets, and loaders of batches with targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset, default_collate

from telescope_core.arguments import check_integer
from telescope_core.errors import ShapeError
from telescope_core.network.indexed import INDEX_KEY
from telescope_core.network.inputs import (
    Inputs,
    Rows,
    count_rows,
    is_in_memory,
    leaves,
    map_rows,
    take_rows,
)
from telescope_core.network.streams import own_streams

ROWS_OF_A_LOADER = 1000
"""How many rows of a loader are followed where nothing else is said."""

TARGETS = ("label", "labels", "label_ids", "target", "targets", "y")
"""Entries of a batch that hold what outputs are compared with."""

Source = Inputs | DataLoader[Any] | IterableDataset[Any] | Callable[[nn.Module], Any]
"""Where the rows of a set come from."""


@dataclass(frozen=True)
class Sample:
    """Some rows of a loader.

    Attributes:
        inputs: What the model takes of them.
        targets: Their targets; ``None`` where a batch holds none.
        ids: Which rows they are, int64: their positions in the loader's dataset, if nothing else
            is said; ``None`` for a stream.
    """

    inputs: Rows
    targets: Tensor | None
    ids: Tensor | None


def is_loader(source: object) -> bool:
    """Whether rows come in batches, targets beside them."""
    return isinstance(source, DataLoader | IterableDataset)


def is_call(source: object) -> TypeGuard[Callable[[nn.Module], Any]]:
    """Whether it says how to call the model instead of what with."""
    return callable(source) and not hasattr(source, "__getitem__")


def check_eval_rows(eval_rows: object) -> None:
    """Refuse a number of rows that is none.

    Raises:
        ConfigurationError: Neither ``None`` nor a positive integer.
    """
    if eval_rows is not None:
        check_integer("eval_rows", eval_rows, 1, "rows of each evaluation set; None for all")


def sampled(
    name: str, source: Source, most: int | None, device: torch.device, without: object = None
) -> Inputs:
    """A fixed sample of a set, the same at every call.

    Tensors and datasets are taken as they are where they are small enough, and else at evenly
    spaced rows.  Of a loader whole batches are made at such rows, in its own way of collating, and
    what they hold beside the inputs is left out: of a pair the second, of a mapping its targets.

    Args:
        name: The set, for messages.
        source: Where its rows come from.
        most: Rows to take; ``None`` for all, or 1000 of a loader.
        device: Where the rows of a loader go.
        without: A position or a key of a loader's batches that holds no inputs.

    Returns:
        Rows in memory, or a dataset.

    Raises:
        ShapeError: A loader gives no tensors.
    """
    if is_loader(source):
        return sample_of(name, source, most or ROWS_OF_A_LOADER, device, without=without).inputs
    source = cast(Inputs, source)
    if most is None or not _is_sized(source) or count_rows(source) <= most:
        return source
    positions = _spaced(count_rows(source), most)
    if is_in_memory(source):
        return take_rows(source, positions, leaves(cast(Rows, source))[0].device)
    return Subset(cast(Any, source), positions.tolist())


def sample_of(
    name: str,
    loader: Any,
    most: int,
    device: torch.device,
    identify: Callable[[Any], Tensor] | None = None,
    without: object = None,
) -> Sample:
    """The first rows of a stream, or evenly spaced ones, collated as the loader does it.

    Args:
        name: The set, for messages.
        loader: A loader, a stream, or a dataset of inputs with targets.
        most: Rows to take.
        device: Where they go.
        identify: Says which rows a batch holds.
        without: A position or a key of a batch that holds neither inputs nor targets.

    Returns:
        The rows, with their targets where batches hold some.

    Raises:
        ShapeError: There are no tensors, or rows of different shapes.
    """
    dataset = getattr(loader, "dataset", loader)
    ids: Tensor | None = None
    with own_streams():
        if isinstance(dataset, IterableDataset):
            batches = list(_first(loader, most))
        else:
            ids = _spaced(len(dataset), min(most, len(dataset)))
            batches = [_collated(loader, ids)]
        if identify is not None:
            ids = torch.cat([identify(batch) for batch in batches])
        parts = [parts_of(name, batch, without) for batch in batches]
        rows = _joined(name, [inputs for inputs, _ in parts])
    targets = [t for _, t in parts if t is not None]
    return Sample(
        map_rows(rows, lambda leaf: leaf.to(device)[:most]),
        torch.cat(targets).to(device)[:most] if targets else None,
        None if ids is None else ids.to(device)[:most],
    )


def spaced_batch(loader: Any, most: int) -> Any:
    """One batch as the loader collates it, targets included.

    Args:
        loader: A loader of batches, or a dataset.
        most: How many evenly spaced rows; of a stream its first batch is taken.

    Returns:
        The batch.
    """
    dataset = getattr(loader, "dataset", loader)
    with own_streams():
        if isinstance(dataset, IterableDataset):
            return next(iter(loader))
        return _collated(loader, _spaced(len(dataset), min(most, len(dataset))))


def _collated(loader: Any, positions: Tensor) -> Any:
    """Rows of a loader's dataset, or of a dataset, as one batch."""
    dataset = getattr(loader, "dataset", loader)
    collate = getattr(loader, "collate_fn", None) or default_collate
    return collate([dataset[i] for i in positions.tolist()])


def _first(loader: Any, most: int) -> Iterable[Any]:
    """Batches until there are enough rows; the items of a bare dataset as one batch."""
    if not isinstance(loader, DataLoader):
        yield default_collate(list(islice(loader, most)))
        return
    seen = 0
    for batch in loader:
        yield batch
        seen += len(tensors_in(batch)[0])
        if seen >= most:
            return


def parts_of(name: str, batch: Any, without: object = None) -> tuple[Rows, Tensor | None]:
    """The inputs of a batch, and its targets if it holds some.

    Args:
        name: The set, for messages.
        batch: What a loader gives.
        without: A position or a key that holds neither.

    Returns:
        Of a pair the two, of a mapping what is called targets and the rest.

    Raises:
        ShapeError: There are no tensors of inputs.
    """
    inputs, targets = batch, None
    if isinstance(batch, Mapping):
        others = (*TARGETS, INDEX_KEY, without)
        inputs = {k: v for k, v in batch.items() if k not in others and isinstance(v, Tensor)}
        targets = next((batch[key] for key in TARGETS if key in batch), None)
    elif isinstance(batch, list | tuple):
        kept = list(batch)
        if isinstance(without, int) and len(kept) > 1:
            del kept[without]
        inputs, *rest = kept
        inputs = tuple(inputs) if isinstance(inputs, list | tuple) else inputs
        targets = rest[0] if rest else None
    if not tensors_in(inputs):
        raise ShapeError(
            f"a batch of {name!r} is {type(batch).__name__} without tensors of inputs; expected a "
            "tensor, a pair of inputs and targets, or a mapping"
        )
    return cast(Rows, inputs), targets if isinstance(targets, Tensor) else None


def tensors_in(batch: Any) -> list[Tensor]:
    """The tensors that make up a batch, in order."""
    if isinstance(batch, Tensor):
        return [batch]
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(batch, Mapping | list | tuple):
        return []
    return [leaf for part in parts for leaf in tensors_in(part)]


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
