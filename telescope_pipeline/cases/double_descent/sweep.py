"""The members, by width and seed, and the names of their groups."""

from __future__ import annotations

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates


def members(case: DoubleDescentCase) -> list[Member]:
    """One member per width and seed.

    Returns:
        The members; the widest, which take longest, come first, so that no worker is left with one
        of them at the end.
    """
    return [
        member
        for width in sorted(case.model.widths, reverse=True)
        for member in replicates(group_name(width), case.seeds, {"width": width})
    ]


def group_name(width: int) -> str:
    """Name of the members of this width, e.g. ``width-0030``."""
    return f"width-{width:04d}"
