"""Rows that say where they are in the training set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from telescope_core.errors import ConfigurationError

INDEX_KEY = "telescope_index"
"""The entry that holds a row's position."""

_ADVICE = (
    "wrap the training set in telescope_core.callbacks.IndexedDataset and collate its rows into a "
    f"dict or a list (as default_collate does) that keeps the entry {INDEX_KEY!r}"
)


class IndexedDataset(Dataset[Any]):
    """A map-style dataset whose rows carry their positions, whatever order they are drawn in.

    A row that is a mapping gets one more entry; a tuple or list gets one more item, a mapping with
    that entry.  A callback takes it out of the batch again before the model sees it.

    Args:
        dataset: The training set.  Its rows are mappings, tuples or lists.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> Any:
        row = self._dataset[position]
        if isinstance(row, Mapping):
            return {**row, INDEX_KEY: position}
        if isinstance(row, tuple | list):
            return (*row, {INDEX_KEY: position})
        raise ConfigurationError(
            f"a row of the dataset is a {type(row).__name__}; expected a mapping, a tuple or a list"
        )


class IndexedCollator:
    """A collator that leaves the positions of rows out, and adds them to the batch that it makes.

    Args:
        collate: What makes a batch, a mapping, of rows as they are without :class:`IndexedDataset`.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, rows: list[Any]) -> Any:
        """The batch, with the positions if its rows have them."""
        if not all(isinstance(row, Mapping) and INDEX_KEY in row for row in rows):
            return self._collate(rows)
        plain = [{key: row[key] for key in row if key != INDEX_KEY} for row in rows]
        batch = self._collate(plain)
        batch[INDEX_KEY] = torch.tensor([row[INDEX_KEY] for row in rows])
        return batch


def take_index(batch: Any) -> Tensor:
    """Take the positions out of a batch, which is then as without :class:`IndexedDataset`.

    Args:
        batch: A batch of its rows; changed.

    Returns:
        Positions in the training set, int64, shape ``(b,)``.

    Raises:
        ConfigurationError: There are none, or they cannot be taken out.
    """
    index = _index_of(batch)
    if not isinstance(index, Tensor):
        raise ConfigurationError(
            f"a batch ({type(batch).__name__}) does not say which training rows it holds; {_ADVICE}"
        )
    if isinstance(batch, MutableMapping):
        del batch[INDEX_KEY]
        return index
    if not isinstance(batch, list):
        raise ConfigurationError(
            f"a batch is a {type(batch).__name__}, from which the positions cannot be taken out; "
            f"{_ADVICE}"
        )
    batch.pop()
    return index


def has_index(batch: Any) -> bool:
    """Whether a batch says which training rows it holds."""
    return isinstance(_index_of(batch), Tensor)


def _index_of(batch: Any) -> Any:
    last = batch[-1] if isinstance(batch, list | tuple) and batch else batch
    return last.get(INDEX_KEY) if isinstance(last, Mapping) else None
