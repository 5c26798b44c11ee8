r"""Line integrals of the Jacobian along a path in parameter space (MATH sections 1 and 4.5).

All that the model says about predictions has one form: a path ``P_t`` in parameter space (θ
itself, the derivative columns A, the constant path b) is pushed through the network's Jacobian,

.. math:: S_t(x) = S_0(x) + \sum_{\text{blocks}} \bar J \, (P_e - P_s),

with :math:`\bar J = J_s` (first order) or :math:`½ (J_s + J_e)` (second order) for a block from
step s to step e.  Second order is regrouped by Jacobian,
:math:`\sum_s J_s · ½ (P_e - P_{s'})` with s' the start of the previous block, so that each block
costs one product instead of two; the open end is added when a value is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class PushesForward(Protocol):
    """Anything with a Jacobian-vector product: a linearisation, or all rows of a set."""

    def jvp(self, directions: Tensor) -> Tensor:
        """``J · directions``, shape ``(rows, k, m)``."""
        ...


class Path:
    """A path ``P`` in parameter space with what has been integrated along it.

    Args:
        order: 1 (the paper) or 2 (trapezoid rule).
        start: ``P_0``, shape ``(p, q)``; taken over, not copied.
        values: Per set name the starting values ``S_0``, shape ``(rows, k, q)``; taken over.
    """

    def __init__(self, order: int, start: Tensor, values: dict[str, Tensor]) -> None:
        self.order = order
        self.current = start
        """``P_t``; whoever owns the path moves it."""
        self.settled = values
        """Per set, the terms whose weights are final."""
        self._anchor = start.clone()
        self._left = self._anchor if order == 1 else start.clone()
        self._moved = False

    def mark_moved(self) -> None:
        """Say that ``current`` has left the start of the block."""
        self._moved = True

    def value(
        self,
        name: str,
        at_start: PushesForward,
        now: PushesForward,
        index: Tensor | None = None,
    ) -> Tensor:
        """``S_t`` on a set, or on some of its rows, with the open block closed at ``P_t``.

        Args:
            name: The set.
            at_start: The rows' linearisation at the start of the block.
            now: The rows' linearisation at the current θ.
            index: The rows, if not all of the set.

        Returns:
            Shape ``(rows, k, q)``, a new tensor.
        """
        settled = self.settled[name]
        result = settled.clone() if index is None else settled[index]
        if self.order == 1:
            if self._moved:
                result += at_start.jvp(self.current - self._anchor)
            return result
        result += at_start.jvp(self.current - self._left).mul_(0.5)
        if self._moved:
            result += now.jvp(self.current - self._anchor).mul_(0.5)
        return result

    def close_block(self, at_start: Mapping[str, PushesForward]) -> None:
        """End the block at ``P_t`` and start the next one there.

        Args:
            at_start: Per set, the linearisation of all rows at the start of the block.
        """
        weight = 1.0 if self.order == 1 else 0.5
        direction = self.current - self._left
        for name, values in self.settled.items():
            values.add_(at_start[name].jvp(direction), alpha=weight)
        if self.order == 1:
            self._anchor.copy_(self.current)
        else:
            self._left, self._anchor = self._anchor, self._left
            self._anchor.copy_(self.current)
        self._moved = False

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""
        return {
            f"{prefix}/current": self.current,
            f"{prefix}/anchor": self._anchor,
            f"{prefix}/left": self._left,
            f"{prefix}/moved": torch.tensor(self._moved),
            **{f"{prefix}/settled/{name}": values for name, values in self.settled.items()},
        }

    def load(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        self.current.copy_(tensors[f"{prefix}/current"])
        self._anchor.copy_(tensors[f"{prefix}/anchor"])
        self._left.copy_(tensors[f"{prefix}/left"])
        self._moved = bool(tensors[f"{prefix}/moved"])
        for name, values in self.settled.items():
            values.copy_(tensors[f"{prefix}/settled/{name}"])
