"""The training set as the lens knows it: all rows, or a sample of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from telescope_core.arguments import check_integer
from telescope_core.errors import ConfigurationError
from telescope_core.network.inputs import Inputs, count_rows, is_in_memory
from telescope_core.network.samples import ROWS_OF_A_LOADER, Source, is_loader, sample_of


@dataclass(frozen=True)
class TrainingSet:
    """Rows of the training set, and how many there are.

    Attributes:
        inputs: All rows, or a sample of them.
        targets: Their targets; ``None`` where none were given.
        n: Rows of the whole training set.
        is_streamed: Whether the rows are a sample, and training brings its own.
        ids: Which rows a sample consists of, int64; ``None`` if that is not known.
    """

    inputs: Inputs
    targets: Tensor | None
    n: int
    is_streamed: bool = False
    ids: Tensor | None = None


def training_set_of(
    source: Source | None,
    targets: Tensor | None,
    n: int | None,
    most: int | None,
    device: torch.device,
    *,
    has_loss: bool,
    identify: Callable[[Any], Tensor] | None = None,
    without: object = None,
) -> TrainingSet | None:
    """What a lens is told of the training set.

    Args:
        source: All rows, a loader of batches with targets, or (with ``n``) a sample.
        targets: Targets of rows that come without.
        n: Rows of the whole training set, where ``source`` does not say.
        most: Rows to take of a loader; ``None`` for 1000.
        device: Where rows of a loader go.
        has_loss: Whether targets are wanted: a dataset without ``targets`` then holds them.
        identify: Says which rows a batch of the loader holds.
        without: A position or a key of a batch that holds neither inputs nor targets.

    Returns:
        The training set; ``None`` where none was given.

    Raises:
        ConfigurationError: Targets were given twice, or it is not known how many rows there are.
    """
    if n is not None:
        check_integer("train_rows", n, 1, "rows of the whole training set")
    if source is None:
        if n is not None:
            raise ConfigurationError(
                f"train_rows={n} says how large the training set is that train_inputs is a sample "
                "of; pass some of its rows with their targets, or its loader"
            )
        return None
    holds_pairs = not is_in_memory(source) and targets is None and has_loss
    if not is_loader(source) and not holds_pairs:
        rows = count_rows(cast(Inputs, source))
        _require_fewer(rows, n)
        return TrainingSet(cast(Inputs, source), targets, n or rows, is_streamed=n is not None)
    if targets is not None:
        raise ConfigurationError(
            "train_targets were given beside a loader, whose batches bring their own; leave them "
            "out, or pass the rows themselves as train_inputs"
        )
    sample = sample_of("train", source, most or ROWS_OF_A_LOADER, device, identify, without)
    rows = _length(source) if n is None else n
    _require_fewer(count_rows(sample.inputs), rows)
    return TrainingSet(sample.inputs, sample.targets, rows, True, sample.ids)


def _length(source: object) -> int:
    dataset = source.dataset if isinstance(source, DataLoader) else source
    if isinstance(dataset, IterableDataset) and not hasattr(dataset, "__len__"):
        raise ConfigurationError(
            "train_inputs is a stream that does not say how many rows it has; give train_rows, the "
            "number of different rows that training will see"
        )
    return len(dataset)  # type: ignore[arg-type]


def _require_fewer(rows: int, n: int | None) -> None:
    if n is not None and rows > n:
        raise ConfigurationError(
            f"train_rows={n}, but train_inputs alone has {rows} rows; give the rows of the whole "
            "training set"
        )
