"""Names of files."""

from __future__ import annotations


def file_stem(replicate: int) -> str:
    """Name of the file that holds the split of one seed."""
    return f"seed-{replicate}"
