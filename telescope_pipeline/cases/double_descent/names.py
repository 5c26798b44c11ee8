"""Names of groups and files, as they appear in tables and files."""

from __future__ import annotations


def group_name(width: int) -> str:
    """Name of the members of this width, e.g. ``width-0030``."""
    return f"width-{width:04d}"


def file_stem(replicate: int) -> str:
    """Name of the file that holds the data of one seed."""
    return f"seed-{replicate}"
