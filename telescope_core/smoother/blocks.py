"""A block of steps as seen by some rows: linearised at its start, at its end and between.

Whatever is not asked for is not computed.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from telescope_core.jacobians import Linearization, LinearizedRows, Linearizer
from telescope_core.network.inputs import Rows


class Span:
    """All rows of a set over the open block, from step s to the current step t."""

    def __init__(self, start: LinearizedRows, now: LinearizedRows) -> None:
        self.start = start
        self.now = now

    @property
    def before(self) -> LinearizedRows:
        """The rows as they stood in the block before: the same."""
        return self.start

    @cached_property
    def midpoint(self) -> LinearizedRows:
        """The rows linearised at ``½ (θ_s + θ_t)``."""
        return self.start.at(0.5 * (self.start.theta + self.now.theta))


class Batch:
    """One training batch as the model sees it.

    Args:
        index: Positions in the training set, int64, shape ``(b,)``.
        inputs: What the model saw in place of the stored rows; ``None`` for these.
        targets: Targets as the loss sees them.
        labels: The same as real-valued labels, ``(b, label_width)``.
        stored: Whether inputs and targets are the training set's own.
        linearizer: The model; its parameters are ``θ_{t−1}`` until the optimizer's step.
        block_start: The training set linearised at the start of the block; ``None`` where it is
            streamed.
        at_block_start: Whether no step was taken in the block yet.
    """

    def __init__(
        self,
        index: Tensor,
        inputs: Rows | None,
        targets: Tensor,
        labels: Tensor,
        *,
        stored: bool,
        linearizer: Linearizer,
        block_start: LinearizedRows | None,
        at_block_start: bool,
    ) -> None:
        self.index = index
        self.targets = targets
        self.labels = labels
        self.stored = stored
        self._given = inputs
        self._linearizer = linearizer
        self._stored_rows = block_start
        self._at_block_start = at_block_start

    @cached_property
    def inputs(self) -> Rows:
        """The rows as the model sees them."""
        return self._block_start.take(self.index) if self._given is None else self._given

    @property
    def _block_start(self) -> LinearizedRows:
        assert self._stored_rows is not None, "rows of a stream are not stored"
        return self._stored_rows

    @cached_property
    def _theta(self) -> Tensor:
        return self._linearizer.function.theta()

    @cached_property
    def before(self) -> Linearization:
        """The stored rows linearised at the start of the block, as the block before closed."""
        return self._block_start.rows(self.index)

    @cached_property
    def start(self) -> Linearization:
        """The batch rows linearised at the start of the block."""
        if self.stored:
            return self.before
        return self._linearizer.linearize(self._block_start.theta, self.inputs)

    @cached_property
    def now(self) -> Linearization:
        """The batch rows linearised at ``θ_{t−1}``; first asked for before the parameters move."""
        if self._at_block_start:
            return self.start
        return self._linearizer.linearize(self._theta, self.inputs)

    @cached_property
    def midpoint(self) -> Linearization:
        """The batch rows linearised half-way between the start of the block and now."""
        if self._at_block_start:
            return self.start
        theta = 0.5 * (self._block_start.theta + self._theta)
        return self._linearizer.linearize(theta, self.inputs)
