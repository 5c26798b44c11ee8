"""The members, by training rows and seed, and the names of groups and ways to train."""

from __future__ import annotations

from telescope_pipeline.cases.large_scale.schema import LargeScaleCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates

WAYS = ("plain", "predictions", "probes")
"""Plainly, with a lens for predictions only, and with one for label directions."""


def members(case: LargeScaleCase) -> list[Member]:
    """One member per size and seed; those of a seed share the teacher and the first rows."""
    return [
        member
        for rows in sorted(case.data.rows, reverse=True)
        for member in replicates(group_name(rows), case.seeds, {"rows": rows})
    ]


def group_name(rows: int) -> str:
    """Name of the members with so many training rows, e.g. ``rows-01000000``."""
    return f"rows-{rows:08d}"


def counted(way: str) -> str:
    """The column with the operations of a step."""
    return f"{way}/gflop"
