"""A block of steps as seen by some rows: linearised at its start, at its end and between."""

from __future__ import annotations

from functools import cached_property

from telescope_core.jacobians.rows import LinearizedRows


class Span:
    """All rows of a set over the open block, from step s to the current step t.

    Args:
        start: The rows linearised at ``θ_s``.
        now: The rows linearised at ``θ_t``.
    """

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
