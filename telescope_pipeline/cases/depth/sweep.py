"""Which members a sweep over depths and architectures has."""

from __future__ import annotations

from telescope_pipeline.cases.depth.names import file_stem, group_name
from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: DepthCase, seed: int) -> list[Member]:
    """One member per architecture, depth and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one architecture and depth form a group. The deepest, which take
        longest, come first, so that no worker is left with one of them at the end.
    """
    return [
        member
        for depth in sorted(case.model.depths, reverse=True)
        for architecture in case.model.architectures
        for member in replicates(
            group_name(architecture, depth),
            case.seeds,
            {"architecture": architecture, "depth": depth},
            data=file_stem,
        )
    ]
