"""Names of groups, as they appear in tables and files, and in figures."""

from __future__ import annotations


def group_name(alpha: float, output: str) -> str:
    """Name of the members with this initial scale and output, e.g. ``alpha-6.0_linear``."""
    return f"alpha-{float(alpha)!r}_{output}"


def group_label(alpha: float, output: str) -> str:
    """A group as a figure names it."""
    label = rf"$\alpha$ = {alpha:g}"
    return label if output == "linear" else f"{label}, {output} output"
