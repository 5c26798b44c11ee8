"""Test sets with growing parts of irregular rows, mixed from one regular and one irregular pool.

A set of m rows with the part p irregular holds the first ``round(p·m)`` rows of the irregular pool
and the first ``m − round(p·m)`` of the regular one. The pools can therefore be cut into segments
such that every set is a union of segments, and what is measured once on each segment gives the
maxima and means of all sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from telescope_pipeline.cases.boosting_vs_networks.sweep import set_name

POOLS = ("regular", "irregular")


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of a pool.

    Attributes:
        name: Unique, e.g. ``irregular_250``.
        pool: ``regular`` or ``irregular``.
        start: First row.
        stop: Past the last row.
    """

    name: str
    pool: str
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Mixtures:
    """The test sets of one split.

    Attributes:
        proportions: Parts of irregular rows.
        size: Rows of each set and of each pool.
    """

    proportions: Sequence[float]
    size: int

    @property
    def names(self) -> list[str]:
        """Names of the sets, by growing part of irregular rows."""
        return [set_name(proportion) for proportion in self.proportions]

    def rows(self, proportion: float) -> dict[str, int]:
        """How many rows of each pool a set holds."""
        irregular = round(proportion * self.size)
        return {"regular": self.size - irregular, "irregular": irregular}

    def mixed(self, pools: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every set by name.

        Args:
            pools: ``regular`` and ``irregular``, each of ``size`` rows.

        Returns:
            Tensors of ``size`` rows, regular ones first.
        """
        return {
            set_name(proportion): torch.cat(
                [pools[pool][:rows] for pool, rows in self.rows(proportion).items()]
            )
            for proportion in self.proportions
        }

    def segments(self) -> list[Segment]:
        """The segments of both pools; together they are all rows of both."""
        found = []
        for pool in POOLS:
            cuts = {0, self.size} | {self.rows(p)[pool] for p in self.proportions}
            for start, stop in itertools.pairwise(sorted(cuts)):
                found.append(Segment(f"{pool}_{start}", pool, start, stop))
        return found

    def inside(self, proportion: float) -> list[Segment]:
        """The segments that make up a set."""
        rows = self.rows(proportion)
        return [segment for segment in self.segments() if segment.stop <= rows[segment.pool]]
