"""A table of any length whose rows are made from their positions alone.

A counter-based generator (Philox) gives the random bits of row i without those before it, so a
table can be made in parts of any size, by any process, the same to the bit, and need not be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

# Of numpy's Philox: 64-bit words by a count of the counter.
_WORDS = 4
_PART = 2**16

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TeacherTable:
    """Rows of uniform features of mean 0 and variance 1, labelled by a network and noise.

    Attributes:
        key: Seed of the rows.
        inner: Weights of the teacher's hidden units, ``(features, units)``.
        outer: Its output weights, ``(units,)``.
        noise: Standard deviation of what is added.
    """

    key: int
    inner: Tensor
    outer: Tensor
    noise: float

    def rows(self, start: int, count: int) -> tuple[Array, Array]:
        """Rows from a position on.

        Returns:
            Inputs ``(count, features)`` and targets ``(count,)``.
        """
        features = len(self.inner)
        counts = -(-(features + 1) // (2 * _WORDS))
        # A bound on positions keeps the counter of a row within 64 bits.
        generator = np.random.Philox(key=self.key, counter=[start * counts, 0, 0, 0])
        words = generator.random_raw(count * counts * _WORDS).astype("<u8").view("<u4")
        unit = (words.reshape(count, -1)[:, : features + 1] + 0.5) / 2.0**31 - 1.0
        values = (3.0**0.5 * unit).astype(np.float32)
        x, noise = values[:, :features], values[:, features]
        hidden = torch.tanh(torch.from_numpy(x) @ self.inner)
        return x, (hidden @ self.outer).numpy() + np.float32(self.noise) * noise

    def write(self, path: Path, count: int) -> None:
        """Write the first rows, features and then the target, as a ``.npy`` that can be mapped."""
        shape = (count, len(self.inner) + 1)
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, count, _PART):
            x, y = self.rows(start, min(_PART, count - start))
            table[start : start + len(x)] = np.column_stack([x, y])
        table.flush()


class BatchesOnDisk(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    """Consecutive batches of a table on disk, from its start again and again.

    Args:
        path: A ``.npy`` with the target in the last column.
        size: Rows of a batch.
        first: The batch to begin with.
    """

    def __init__(self, path: Path, size: int, first: int = 0) -> None:
        self._path = path
        self._size = size
        self._first = first

    def __iter__(self):  # type: ignore[no-untyped-def]  # torch's own is not generic
        """Yield inputs ``(b, features)``, targets ``(b,)`` and positions ``(b,)``."""
        table = np.load(self._path, mmap_mode="r")
        step = self._first
        while True:
            ids = np.arange(step * self._size, (step + 1) * self._size) % len(table)
            part = torch.from_numpy(table[ids])
            yield part[:, :-1], part[:, -1], torch.from_numpy(ids)
            step += 1
