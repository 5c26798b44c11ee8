"""Names that training, metrics and figures share."""

from __future__ import annotations

NETWORK, TREES = "network", "trees"
MODELS = (NETWORK, TREES)


def file_stem(table: str, replicate: int) -> str:
    """Name of the file that holds one split of a table."""
    return f"{table}_seed-{replicate}"


def set_name(proportion: float) -> str:
    """Name of the test set with this part of irregular rows, e.g. ``test_p025``."""
    return f"test_p{round(100 * proportion):03d}"
