"""Which members a sweep over widths has."""

from __future__ import annotations

from telescope_pipeline.cases.double_descent.names import group_name
from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: DoubleDescentCase, seed: int) -> list[Member]:
    """One member per width and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one width form a group. The widest, which take longest, come first,
        so that no worker is left with one of them at the end.
    """
    return [
        member
        for width in sorted(case.model.widths, reverse=True)
        for member in replicates(group_name(width), case.seeds, {"width": width})
    ]
