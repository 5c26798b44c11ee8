"""Names of choices and columns, as they appear in tables and figures."""

from __future__ import annotations

LABELS = {
    "plain": "plain SGD",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "adaptive": "adaptive rates",
    "sigmoid": "sigmoid output",
}

FIFTHS = (1, 2, 3, 4, 5)
"""Fifths of the test points by confidence, the least confident first."""


def by_fifth(quantity: str, fifth: int) -> str:
    """Column of a quantity averaged over one fifth of the test points."""
    return f"test/{quantity}@fifth-{fifth}"
