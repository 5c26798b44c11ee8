"""Batches of training as a loader gives them, and which rows they hold."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from telescope_core.errors import ConfigurationError
from telescope_core.network import own_streams
from telescope_core.network.indexed import IndexedDataset, has_index, take_index
from telescope_core.network.inputs import Rows, leaves
from telescope_core.network.samples import parts_of, tensors_in

SampleId = str | int | Callable[[Any], Any] | None
"""Where a batch says which rows it holds: a key, a position, or a callable that picks them."""

_ITEMS = 8
_ADVICE = (
    "name what tells them by sample_id=, wrap the dataset in "
    "telescope_core.callbacks.IndexedDataset, or follow predictions only (probes=None)"
)


@dataclass(frozen=True)
class Drawn:
    """A batch that was drawn.

    Attributes:
        ids: Its rows, int64, shape ``(b,)``.
        inputs: What it holds beside targets.
        targets: Their targets, if it holds some.
    """

    ids: Tensor
    inputs: Rows
    targets: Tensor | None


@dataclass(frozen=True)
class BatchRun:
    """Batches that were drawn one after the other.

    Attributes:
        batches: These.
        end: How many were drawn until the last of them.
    """

    batches: tuple[Drawn, ...]
    end: int

    @property
    def ids(self) -> Tensor:
        """Their rows, int64, shape ``(b,)``."""
        return torch.cat([batch.ids for batch in self.batches])

    @property
    def targets(self) -> Tensor | None:
        """Their targets; ``None`` where some hold none."""
        targets = [batch.targets for batch in self.batches if batch.targets is not None]
        return torch.cat(targets) if len(targets) == len(self.batches) else None

    def shows(self, seen: Tensor) -> bool:
        """Whether a model that saw this was given these rows as they are."""
        first = torch.cat([leaves(batch.inputs)[0] for batch in self.batches])
        return first.shape == seen.shape and torch.equal(first.to(seen), seen)


class Feed:
    """Notes which rows the batches hold that a training loop draws.

    Rows are known by what ``sample_id`` names, else by the positions that ``IndexedDataset`` adds,
    else by those that the loader's own sampler draws.

    Args:
        sample_id: Where a batch says which rows it holds.
        is_needed: Whether a loader whose rows cannot be told is refused.
    """

    def __init__(self, sample_id: SampleId, *, is_needed: bool) -> None:
        self._sample_id = sample_id
        self._is_needed = is_needed
        self._recorded: dict[int, tuple[Any, Any, deque[Any]]] = {}
        self._drawn: list[Drawn] = []

    def batches(self, loader: Any) -> Iterator[Any]:
        """The loader's batches, as they are without this.

        Yields:
            Each batch; positions that ``IndexedDataset`` has added are taken out.

        Raises:
            ConfigurationError: The rows of a batch cannot be told, and are needed.
        """
        if not self._is_needed:
            for batch in loader:
                if has_index(batch):
                    take_index(batch)
                yield batch
            return
        recorded, positions = self._recording(loader)
        for batch in recorded:
            ids = self._ids_of(batch, positions)
            if ids is None:
                raise ConfigurationError(
                    f"nothing tells which training rows a batch of {type(loader).__name__} holds; "
                    + _ADVICE
                )
            self._drawn.append(Drawn(ids, *parts_of("train", batch, self._sample_id)))
            yield batch

    def runs(self, rows: int) -> list[BatchRun]:
        """The runs of batches since the last step that hold so many rows; all of them for 0."""
        drawn, found = self._drawn, []
        for end in range(1, len(drawn) + 1):
            start, left = end, rows
            while start > 0 and (left > 0 or rows == 0):
                start -= 1
                left -= len(drawn[start].ids)
            if left == 0 or (rows == 0 and end == len(drawn)):
                found.append(BatchRun(tuple(drawn[start:end]), end))
        return found

    def use(self, run: BatchRun) -> None:
        """Forget batches up to the last of these, but none that was drawn ahead."""
        del self._drawn[: run.end]

    def forget(self) -> None:
        """Forget all batches."""
        self._drawn.clear()

    def _ids_of(self, batch: Any, positions: deque[Any]) -> Tensor | None:
        drawn = positions.popleft() if positions else None
        if self._sample_id is not None:
            ids = picked(batch, self._sample_id)
        elif has_index(batch):
            ids = take_index(batch)
        elif isinstance(drawn, list):
            ids = torch.tensor(drawn, dtype=torch.int64)
        else:
            return None
        rows = len(next(iter(tensors_in(batch)), ids))
        if len(ids) != rows:
            raise ConfigurationError(
                f"a batch of {rows} rows names {len(ids)} of them; expected one whole "
                "number a row: rows that the collate function drops or adds have to be named by "
                "sample_id="
            )
        return ids

    def _recording(self, loader: Any) -> tuple[Any, deque[Any]]:
        """A twin of the loader whose sampler writes down what it draws."""
        known = self._recorded.get(id(loader))
        if known is not None and known[0] is loader:
            known[2].clear()
            return known[1], known[2]
        positions: deque[Any] = deque()
        twin = loader
        if self._sample_id is None and _is_told_by_sampler(loader):
            _require_order(loader)
            twin = copy.copy(loader)
            # A loader refuses to have its sampler replaced, but reads it from here.
            vars(twin)["batch_sampler"] = _Recording(loader.batch_sampler, positions)
        self._recorded[id(loader)] = loader, twin, positions
        return twin, positions


class _Recording:
    """A sampler of batches that writes down what it draws."""

    def __init__(self, sampler: Any, positions: deque[Any]) -> None:
        self._sampler = sampler
        self._positions = positions

    def __iter__(self) -> Iterator[Any]:
        for batch in self._sampler:
            batch = list(batch)
            self._positions.append(batch)
            yield batch

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)


def _is_told_by_sampler(loader: Any) -> bool:
    """Whether batches come in the order in which a sampler has drawn them."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
        and getattr(loader, "in_order", True)
    )


def _require_order(loader: DataLoader[Any]) -> None:
    """Refuse a function of one's own that collates rows in another order than they were drawn."""
    dataset: Any = loader.dataset
    if loader.collate_fn is default_collate or isinstance(dataset, IndexedDataset):
        return
    with own_streams():
        items = [dataset[i] for i in range(min(_ITEMS, len(dataset)))]
        there, back = (tensors_in(loader.collate_fn(some)) for some in (items, items[::-1]))
    for one, other in zip(there, back, strict=False):
        of_rows = one.ndim > 0 and one.shape == other.shape and len(one) == len(items)
        if of_rows and torch.equal(one, other) and not torch.equal(one, one.flip(0)):
            collate = getattr(loader.collate_fn, "__qualname__", type(loader.collate_fn).__name__)
            raise ConfigurationError(
                f"{collate} puts the rows of a batch in an order of its own (by length?), so that "
                "the sampler does not tell which they are; " + _ADVICE
            )


def picked(batch: Any, sample_id: SampleId) -> Tensor:
    """The rows that a batch says it holds.

    Returns:
        Whole numbers, int64, ``(b,)``.

    Raises:
        ConfigurationError: It holds none there.
    """
    try:
        ids = sample_id(batch) if callable(sample_id) else batch[sample_id]
        named = torch.as_tensor(ids)
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        holds = ", ".join(map(repr, batch)) if isinstance(batch, Mapping) else type(batch).__name__
        raise ConfigurationError(
            f"sample_id={sample_id!r} names no whole numbers in a batch ({holds}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if named.is_floating_point() or named.is_complex() or named.ndim != 1:
        raise ConfigurationError(
            f"sample_id={sample_id!r} names {tuple(named.shape)} {named.dtype}; expected one whole "
            "number a row"
        )
    return named.to(torch.int64)
