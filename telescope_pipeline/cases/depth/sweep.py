"""The members, by architecture, depth and seed, and the names of groups, lenses and columns."""

from __future__ import annotations

from typing import Final, Literal

from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates

ORDERS: Final[tuple[Literal[1], Literal[2]]] = (1, 2)


def members(case: DepthCase) -> list[Member]:
    """One member per architecture, depth and seed.

    Returns:
        The members; the deepest, which take longest, come first, so that no worker is left with one
        of them at the end.
    """
    return [
        member
        for depth in sorted(case.model.depths, reverse=True)
        for architecture in case.model.architectures
        for member in replicates(
            group_name(architecture, depth),
            case.seeds,
            {"architecture": architecture, "depth": depth},
        )
    ]


def group_name(architecture: str, depth: int) -> str:
    """Name of the members with this architecture and depth, e.g. ``residual-depth-0128``."""
    return f"{architecture}-depth-{depth:04d}"


def lens_name(order: int) -> str:
    """A lens in the name of a column: ``order2`` in ``test/approximation_error@order2``."""
    return f"order{order}"


def error_column(order: int) -> str:
    """The column that holds the telescoping error of one order on test points."""
    return f"test/approximation_error@{lens_name(order)}"
