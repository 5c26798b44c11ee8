r"""Line integrals of the Jacobian along a path in parameter space (MATH sections 1 and 4.5).

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
from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

Quadrature = Literal["start", "trapezoid", "midpoint"]


class PushesForward(Protocol):
    """Anything with a Jacobian-vector product: a linearisation, or all rows of a set."""

    def jvp(self, directions: Tensor) -> Tensor:
        """``J · directions``, shape ``(rows, k, m)``."""
        ...


class Block(Protocol):
    """Rows over the open block; whatever is not asked for is not computed."""

    @property
    def start(self) -> PushesForward:
        """The rows linearised at the start of the block."""
        ...

    @property
    def now(self) -> PushesForward:
        """The rows linearised at the current θ."""
        ...

    @property
    def midpoint(self) -> PushesForward:
        """The rows linearised half-way between the two."""
        ...


class Path(ABC):
    """A path ``P`` in parameter space with what has been integrated along it.

    Args:
        start: ``P_0``, shape ``(p, q)``; taken over, not copied.
        values: Per set name the starting values ``S_0``, shape ``(rows, k, q)``; taken over.

    Attributes:
        current: ``P_t``; whoever owns the path moves it.
        settled: Per set, the terms whose weights are final.
    """

    def __init__(self, start: Tensor, values: dict[str, Tensor]) -> None:
        self.current = start
        self.settled = values
        self._anchor = start.clone()
        self._moved = False
        self._difference: Tensor | None = None

    def mark_moved(self) -> None:
        """Say that ``current`` has left the start of the block."""
        self._moved = True

    @abstractmethod
    def value(self, name: str, block: Block, index: Tensor | None = None) -> Tensor:
        """``S_t`` on a set, or on some of its rows, with the open block closed at ``P_t``.

        Args:
            name: The set.
            block: The rows over the open block.
            index: The rows, if not all of the set.

        Returns:
            Shape ``(rows, k, q)``, a new tensor.
        """

    @abstractmethod
    def close_block(self, blocks: Mapping[str, Block]) -> None:
        """End the block at ``P_t``, where every set has its block, and start the next one."""

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""
        return {
            f"{prefix}/current": self.current,
            f"{prefix}/anchor": self._anchor,
            f"{prefix}/moved": torch.tensor(self._moved),
            **{f"{prefix}/settled/{name}": values for name, values in self.settled.items()},
        }

    def load(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        self.current.copy_(tensors[f"{prefix}/current"])
        self._anchor.copy_(tensors[f"{prefix}/anchor"])
        self._moved = bool(tensors[f"{prefix}/moved"])
        for name, values in self.settled.items():
            values.copy_(tensors[f"{prefix}/settled/{name}"])

    def _since(self, start: Tensor) -> Tensor:
        """``P_t − start``, valid until the next call: fresh memory is slow for large arrays."""
        if self._difference is None:
            self._difference = torch.empty_like(self.current)
        return torch.sub(self.current, start, out=self._difference)

    def _settled_rows(self, name: str, index: Tensor | None) -> Tensor:
        values = self.settled[name]
        return values.clone() if index is None else values[index]


class OnePointPath(Path):
    """``S_e = S_s + J (P_e − P_s)`` with J at one point of the block.

    Args:
        point: ``"start"`` or ``"midpoint"``.
        start: As for :class:`Path`.
        values: As for :class:`Path`.
    """

    def __init__(
        self, point: Literal["start", "midpoint"], start: Tensor, values: dict[str, Tensor]
    ) -> None:
        super().__init__(start, values)
        self._point = point

    def value(self, name: str, block: Block, index: Tensor | None = None) -> Tensor:  # noqa: D102
        result = self._settled_rows(name, index)
        if self._moved:
            result += self._jacobian(block).jvp(self._since(self._anchor))
        return result

    def close_block(self, blocks: Mapping[str, Block]) -> None:  # noqa: D102
        displacement = self._since(self._anchor)
        for name, values in self.settled.items():
            values += self._jacobian(blocks[name]).jvp(displacement)
        self._anchor.copy_(self.current)
        self._moved = False

    def _jacobian(self, block: Block) -> PushesForward:
        return block.start if self._point == "start" else block.midpoint


class TrapezoidPath(Path):
    r"""``S_e = S_s + ½ (J_s + J_e)(P_e − P_s)``.

    Regrouped by Jacobian, :math:`\sum_s J_s · ½ (P_e - P_{s'})` with s' the start of the previous
    block, so that a block costs one product with all rows instead of two; the open end is added
    when a value is asked for.
    """

    def __init__(self, start: Tensor, values: dict[str, Tensor]) -> None:
        super().__init__(start, values)
        self._left = start.clone()

    def value(self, name: str, block: Block, index: Tensor | None = None) -> Tensor:  # noqa: D102
        result = self._settled_rows(name, index)
        result += block.start.jvp(self._since(self._left)).mul_(0.5)
        if self._moved:
            result += block.now.jvp(self._since(self._anchor)).mul_(0.5)
        return result

    def close_block(self, blocks: Mapping[str, Block]) -> None:  # noqa: D102
        direction = self._since(self._left)
        for name, values in self.settled.items():
            values.add_(blocks[name].start.jvp(direction), alpha=0.5)
        self._left, self._anchor = self._anchor, self._left
        self._anchor.copy_(self.current)
        self._moved = False

    def tensors(self, prefix: str) -> dict[str, Tensor]:  # noqa: D102
        return {**super().tensors(prefix), f"{prefix}/left": self._left}

    def load(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:  # noqa: D102
        super().load(prefix, tensors)
        self._left.copy_(tensors[f"{prefix}/left"])


def quadrature_of(order: int) -> Quadrature:
    """The quadrature that defines f̃ of an order (MATH section 1)."""
    return "start" if order == 1 else "trapezoid"


def make_path(quadrature: Quadrature, start: Tensor, values: dict[str, Tensor]) -> Path:
    """The path of a quadrature.

    Args:
        quadrature: What stands for J̄.
        start: ``P_0``, shape ``(p, q)``; taken over.
        values: Per set name the starting values ``S_0``; taken over.
    """
    if quadrature == "trapezoid":
        return TrapezoidPath(start, values)
    return OnePointPath(quadrature, start, values)
