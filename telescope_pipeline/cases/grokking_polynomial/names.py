"""Names of the groups of members."""

from __future__ import annotations


def group_name(epsilon: float) -> str:
    """Group of the members with this epsilon."""
    return f"epsilon-{epsilon:g}"
