"""Names of groups, files and lenses, as they appear in tables and files."""

from __future__ import annotations

from typing import Final, Literal

ORDERS: Final[tuple[Literal[1], Literal[2]]] = (1, 2)


def group_name(architecture: str, depth: int) -> str:
    """Name of the members with this architecture and depth, e.g. ``residual-depth-0128``."""
    return f"{architecture}-depth-{depth:04d}"


def file_stem(replicate: int) -> str:
    """Name of the file that holds the data of one seed."""
    return f"seed-{replicate}"


def lens_name(order: int) -> str:
    """A lens in the name of a column: ``order2`` in ``test/approximation_error@order2``."""
    return f"order{order}"


def error_column(order: int) -> str:
    """The column that holds the telescoping error of one order on test points."""
    return f"test/approximation_error@{lens_name(order)}"
