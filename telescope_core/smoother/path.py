r"""Line integrals of the Jacobian along a path in parameter space (docs/mathematics.md, 2 and 7).

All that the model says about predictions has one form: a path ``P_t`` in parameter space (θ
itself, the derivative columns A, the constant path b) is pushed through the network's Jacobian,

.. math:: S_t(x) = S_0(x) + \sum_{\text{blocks}} \bar J \, (P_e - P_s),

for blocks from step s to step e.  What stands for :math:`\bar J` is the quadrature:

- ``"start"``: :math:`J_s`, first order, as in the paper;
- ``"trapezoid"``: :math:`½ (J_s + J_e)`, second order, the definition in use for f̃;
- ``"midpoint"``: J at :math:`½ (θ_s + θ_e)`, second order with half the error and one product
  wherever the trapezoid takes two, for one more linearisation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import Layers, Linearization, LinearizedRows
from telescope_core.smoother.blocks import Batch, Span

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

Order = Literal[1, 2]
"""1 for the paper's first order, 2 for the trapezoid rule."""

Quadrature = Literal["start", "trapezoid", "midpoint"]


Block = Span | Batch
"""Rows over the open block."""

Rows = LinearizedRows | Linearization
"""Rows at one θ."""

Term = tuple[float, Rows, Tensor]
"""A weight, a Jacobian and the direction it pushes, shape ``(p, q)``."""


class Path(ABC):
    """A path ``P`` in parameter space with what has been integrated along it.

    Args:
        start: ``P_0``, shape ``(p, q)``; taken over, not copied.
        values: Per set name the starting values ``S_0``, shape ``(rows, k, q)``; taken over.
        layers: To follow what the parameters of each layer contribute; ``None`` not to.

    Attributes:
        settled: Per set, the terms whose weights are final.
        settled_by_layer: The same without the starting values, ``(layers, rows, k, q)``, or empty.
    """

    def __init__(
        self,
        start: Float[Tensor, "p q"],
        values: dict[str, Float[Tensor, "rows_of_set k q"]],
        layers: Layers | None = None,
    ) -> None:
        self._array = start
        self.settled = values
        self.settled_by_layer: dict[str, Tensor] = {}
        if layers is not None:
            for name, rows in values.items():
                self.settled_by_layer[name] = rows.new_zeros(layers.count, *rows.shape)
        self._layers = layers
        self._anchor = start.clone()
        self._moved = False
        self._difference: Tensor | None = None

    @property
    def current(self) -> Tensor:
        """``P_t``; whoever owns the path moves it in place and says :meth:`mark_moved`."""
        return self._array

    def to_push(self, reads_position: bool) -> Tensor:
        """What an update rule may move by ``ΔP`` in place of ``P_t``.

        Args:
            reads_position: Whether the rule looks at ``P_t`` itself, as weight decay does.

        Returns:
            ``P_t``, or anything that differs from it by a constant where that is not read.
        """
        return self.current

    def mark_moved(self) -> None:
        """Say that ``P_t`` has left the start of the block."""
        self._moved = True

    def value(
        self, name: str, block: Block, index: Int64[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows k q"]:
        """``S_t`` on a set, or some rows, the open block closed at ``P_t``; ``(rows, k, q)``."""
        settled = self.settled[name]
        total = settled.clone() if index is None else settled[index]
        for weight, rows, direction in self._open_terms(block):
            total.add_(rows.jvp(direction), alpha=weight)
        return total

    def value_by_layer(self, name: str, block: Block) -> Float[Tensor, "layers rows k q"]:
        """What each layer has contributed to ``S_t − S_0`` on a set, ``(layers, rows, k, q)``."""
        assert self._layers is not None
        total = self.settled_by_layer[name].clone()
        for weight, rows, direction in self._open_terms(block):
            pieces = rows.jvp_by_layer(direction, self._layers)
            total.add_(pieces, alpha=weight)
        return total

    @abstractmethod
    def _open_terms(self, block: Block) -> Iterator[Term]:
        """What the open block adds; a direction is valid until the next term is asked for."""

    @abstractmethod
    def close_block(self, blocks: Mapping[str, Block]) -> None:
        """End the block at ``P_t``, where every set has its block, and start the next one."""

    def settle_end(self, blocks: Mapping[str, Block]) -> None:  # noqa: B027  # most have none
        """Settle what waits for the next block, where the Jacobian will be another one.

        Called right after :meth:`close_block` with the same blocks.
        """

    def restart(self, values: Mapping[str, Float[Tensor, "rows_of_set k"]]) -> None:
        """Begin anew at ``P_t`` with these values of every set, shape ``(rows, k)``."""
        for name, value in values.items():
            self.settled[name].copy_(value[..., None])

    def shift(self, values: Mapping[str, Float[Tensor, "rows_of_set k"]]) -> None:
        """Add what has changed a set's values otherwise than along the path, ``(rows, k)``."""
        for name, value in values.items():
            self.settled[name].add_(value[..., None])

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""
        return {
            f"{prefix}/current": self._array,
            f"{prefix}/anchor": self._anchor,
            f"{prefix}/moved": torch.tensor(self._moved),
            **{f"{prefix}/settled/{name}": values for name, values in self.settled.items()},
            **{f"{prefix}/by_layer/{name}": v for name, v in self.settled_by_layer.items()},
        }

    def load(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        self._array.copy_(tensors[f"{prefix}/current"])
        self._anchor.copy_(tensors[f"{prefix}/anchor"])
        self._moved = bool(tensors[f"{prefix}/moved"])
        for name, values in self.settled.items():
            values.copy_(tensors[f"{prefix}/settled/{name}"])
        for name, values in self.settled_by_layer.items():
            values.copy_(tensors[f"{prefix}/by_layer/{name}"])

    def _settle(self, name: str, rows: Rows, directions: Tensor, weight: float) -> None:
        """Add a term whose weight is final."""
        if self._layers is None:
            self.settled[name].add_(rows.jvp(directions), alpha=weight)
            return
        pieces = rows.jvp_by_layer(directions, self._layers)
        self.settled_by_layer[name].add_(pieces, alpha=weight)
        self.settled[name].add_(pieces.sum(dim=0), alpha=weight)

    def _since(self, start: Tensor) -> Tensor:
        """``P_t − start``, valid until the next call: fresh memory is slow for large arrays."""
        if self._difference is None:
            self._difference = torch.empty_like(self._array)
        return torch.sub(self._array, start, out=self._difference)


class OnePointPath(Path):
    """``S_e = S_s + J (P_e − P_s)`` with J at one point of the block.

    All that is asked for is the displacement ``P_t − P_s``.  As long as nobody reads ``P_t`` the
    displacement is what is held, which saves subtracting two arrays of size p at every step.
    """

    def __init__(
        self,
        point: Literal["start", "midpoint"],
        start: Tensor,
        values: dict[str, Tensor],
        layers: Layers | None = None,
    ) -> None:
        super().__init__(start, values, layers)
        self._point = point
        self._is_displacement = False

    @property
    @override
    def current(self) -> Tensor:
        if self._is_displacement:
            self._array.add_(self._anchor)
            self._is_displacement = False
        return self._array

    @override
    def to_push(self, reads_position: bool) -> Tensor:
        if reads_position:
            return self.current
        if not self._is_displacement:
            self._array.sub_(self._anchor)
            self._is_displacement = True
        return self._array

    def _open_terms(self, block: Block) -> Iterator[Term]:
        if self._moved:
            yield 1.0, self._jacobian(block), self._since(self._anchor)

    @override
    def close_block(self, blocks: Mapping[str, Block]) -> None:
        displacement = self._since(self._anchor)
        for name in self.settled:
            self._settle(name, self._jacobian(blocks[name]), displacement, 1.0)
        if self._is_displacement:
            self._anchor.add_(self._array)
            self._array.zero_()
        else:
            self._anchor.copy_(self._array)
        self._moved = False

    @override
    def tensors(self, prefix: str) -> dict[str, Tensor]:
        held = torch.tensor(self._is_displacement)
        return {**super().tensors(prefix), f"{prefix}/is_displacement": held}

    @override
    def load(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        super().load(prefix, tensors)
        self._is_displacement = bool(tensors[f"{prefix}/is_displacement"])

    def _since(self, start: Tensor) -> Tensor:
        return self._array if self._is_displacement else super()._since(start)

    def _jacobian(self, block: Block) -> Rows:
        return block.start if self._point == "start" else block.midpoint


class TrapezoidPath(Path):
    r"""``S_e = S_s + ½ (J_s + J_e)(P_e − P_s)``.

    Regrouped by Jacobian, :math:`\sum_s J_s · ½ (P_e - P_{s'})` with s' the start of the previous
    block, so that a block costs one product with all rows instead of two; the open end is added
    when a value is asked for.
    """

    def __init__(
        self, start: Tensor, values: dict[str, Tensor], layers: Layers | None = None
    ) -> None:
        super().__init__(start, values, layers)
        self._left = start.clone()

    def _open_terms(self, block: Block) -> Iterator[Term]:
        if block.before is block.start:
            yield 0.5, block.start, self._since(self._left)
        else:
            yield 0.5, block.before, self._anchor - self._left
            if self._moved:
                yield 0.5, block.start, self._since(self._anchor)
        if self._moved:
            yield 0.5, block.now, self._since(self._anchor)

    @override
    def close_block(self, blocks: Mapping[str, Block]) -> None:
        direction = self._since(self._left)
        for name in self.settled:
            self._settle(name, blocks[name].start, direction, 0.5)
        self._left, self._anchor = self._anchor, self._left
        self._anchor.copy_(self.current)
        self._moved = False

    @override
    def settle_end(self, blocks: Mapping[str, Block]) -> None:
        direction = self._since(self._left)
        for name in self.settled:
            self._settle(name, blocks[name].now, direction, 0.5)
        self._left.copy_(self._anchor)

    @override
    def tensors(self, prefix: str) -> dict[str, Tensor]:
        return {**super().tensors(prefix), f"{prefix}/left": self._left}

    @override
    def load(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        super().load(prefix, tensors)
        self._left.copy_(tensors[f"{prefix}/left"])


def quadrature_of(order: object) -> Quadrature:
    """The quadrature that defines f̃ of an order (docs/mathematics.md, section 2).

    Returns:
        ``"start"`` for order 1, ``"trapezoid"`` for order 2.

    Raises:
        ConfigurationError: It is neither 1 nor 2.
    """
    if order not in (1, 2) or isinstance(order, bool):
        raise ConfigurationError(f"order must be 1 (the paper) or 2 (trapezoid), got {order!r}")
    return "start" if order == 1 else "trapezoid"


def make_path(
    quadrature: Quadrature,
    start: Tensor,
    values: dict[str, Tensor],
    layers: Layers | None = None,
) -> Path:
    """The path of a quadrature."""
    if quadrature == "trapezoid":
        return TrapezoidPath(start, values, layers)
    return OnePointPath(quadrature, start, values, layers)
