"""A named set of input rows and its linearisations, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from telescope_core.arguments import check_choice, check_integer
from telescope_core.jacobians.linearization import Layers, Linearization
from telescope_core.jacobians.linearizer import Form, Linearizer
from telescope_core.network.inputs import (
    Inputs,
    Rows,
    chunks_of,
    count_rows,
    is_in_memory,
    take_rows,
)

_DATASET_CHUNK = 1024


def check_representation(form: object, chunk_size: object) -> None:
    """Refuse a form of Jacobians that there is not, or chunks of no rows.

    Raises:
        ConfigurationError: Naming the argument, its value and the expectation.
    """
    check_choice("form", form, get_args(Form))
    if chunk_size is not None:
        check_integer("chunk_size", chunk_size, 1, "rows at once; None for all")


class RowSet:
    """Rows of input at which the telescoping model is evaluated.

    Args:
        linearizer: The model.
        inputs: The rows.
        chunk_size: Rows linearised at once; ``None`` for all (1024 for a dataset).  With several
            chunks no linearisation is kept: each product makes them anew, one after the other.
        device: Where rows of a dataset go.
        coupled: Whether outputs of a row depend on other rows, which then stay together.
    """

    def __init__(
        self,
        linearizer: Linearizer,
        inputs: Inputs,
        chunk_size: int | None,
        device: torch.device,
        *,
        coupled: bool = False,
    ) -> None:
        self._linearizer = linearizer
        self._inputs = inputs
        self._device = device
        self._rows = count_rows(inputs)
        whole = self._rows if is_in_memory(inputs) or coupled else _DATASET_CHUNK
        self._chunk_size = max(1, chunk_size or whole)
        self.is_coupled = coupled

    def __len__(self) -> int:
        return self._rows

    @property
    def in_one_chunk(self) -> bool:
        """Whether all rows are linearised at once."""
        return self._rows <= self._chunk_size

    def take(self, index: Tensor | slice) -> Rows:
        """Input rows by position."""
        return take_rows(self._inputs, index, self._device)

    def drawn(self, count: int, generator: torch.Generator) -> Tensor:
        """Positions of some rows to look at: so many at random, or all where they are coupled."""
        if self.is_coupled:
            return torch.arange(self._rows)
        return torch.randint(self._rows, (min(self._rows, count),), generator=generator)

    def chunks(self) -> Iterator[Rows]:
        """All rows in consecutive chunks."""
        return chunks_of(self._inputs, self._chunk_size, self._device)

    def linearize(self, theta: Tensor) -> LinearizedRows:
        """Linearise every row at ``theta``, shape ``(p,)``; ``theta`` must not change later."""
        return LinearizedRows(self._linearizer, theta, self)

    def outputs(self, theta: Tensor) -> Tensor:
        """Network outputs on every row, shape ``(rows, k)``."""
        return torch.cat([self._linearizer.outputs(theta, chunk) for chunk in self.chunks()])


class LinearizedRows:
    """All rows of a set, linearised at one θ."""

    def __init__(self, linearizer: Linearizer, theta: Tensor, rows: RowSet) -> None:
        self._linearizer = linearizer
        self._rows = rows
        self._kept: Linearization | None = None
        self.theta = theta

    def parts(self) -> Iterator[Linearization]:
        """The linearisations of consecutive chunks."""
        if not self._rows.in_one_chunk:
            for chunk in self._rows.chunks():
                yield self._linearizer.linearize(self.theta, chunk)
            return
        if self._kept is None:
            self._kept = self._linearizer.linearize(self.theta, self._rows.take(slice(None)))
        yield self._kept

    def keep(self) -> LinearizedRows:
        """Linearise now, while the model is otherwise as it is, what is to be kept anyway."""
        if self._rows.in_one_chunk:
            next(self.parts())
        return self

    def at(self, theta: Tensor) -> LinearizedRows:
        """The same rows linearised at another θ, shape ``(p,)``, which must not change later."""
        return LinearizedRows(self._linearizer, theta, self._rows)

    def take(self, index: Tensor) -> Rows:
        """Input rows by position."""
        return self._rows.take(index)

    @property
    def outputs(self) -> Tensor:
        """Network outputs at θ, shape ``(rows, k)``."""
        if self._kept is None:
            return self._rows.outputs(self.theta)
        return self._kept.outputs

    def jvp(self, directions: Tensor) -> Tensor:
        """``J · directions`` for all rows, shape ``(rows, k, m)``."""
        return torch.cat([part.jvp(directions) for part in self.parts()])

    def jvp_by_layer(self, directions: Tensor, layers: Layers) -> Tensor:
        """``J_l · directions_l`` for all rows, shape ``(layers, rows, k, m)``."""
        return torch.cat([p.jvp_by_layer(directions, layers) for p in self.parts()], dim=1)

    def vjp(self, cotangents: Tensor) -> Tensor:
        """``Jᵀ · cotangents`` for cotangents of shape ``(rows, k, m)``, shape ``(p, m)``."""
        total = torch.zeros(0)
        start = 0
        for part in self.parts():
            stop = start + len(part.outputs)
            pulled = part.vjp(cotangents[start:stop])
            total = total.add_(pulled) if start else pulled
            start = stop
        return total

    def gram(self, other: LinearizedRows) -> Tensor:
        """Tangent kernel with the rows of ``other``, shape ``(rows, k, rows_other, k)``."""
        return torch.cat(
            [torch.cat([a.gram(b) for b in other.parts()], dim=2) for a in self.parts()]
        )

    def rows(self, index: Tensor) -> Linearization:
        """The linearisation of some rows, shape of ``index`` ``(b,)``."""
        if self._rows.in_one_chunk:
            return next(self.parts()).rows(index)
        return self._linearizer.linearize(self.theta, self._rows.take(index))
