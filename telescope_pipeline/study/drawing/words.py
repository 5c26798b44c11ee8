"""Numbers in a headline."""

from __future__ import annotations

import math


def about(value: float, digits: int = 2) -> str:
    """A number as one says it: few digits, thousands apart, no exponent.

    Args:
        value: The number.
        digits: How many of its digits count.

    Returns:
        For example ``"13,000"``, ``"0.0043"`` or ``"−1.2"``; ``"unknown"`` where it is undefined.
    """
    if not math.isfinite(value):
        return "unknown"
    rounded = float(f"{value:.{digits}g}")
    decimals = 0 if rounded == 0 else max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def times(factor: float) -> str:
    """How many times as much, e.g. ``"12 times"``."""
    return f"{about(factor)} times"


def counted(value: float) -> str:
    """A count such as effective parameters: whole from ten on."""
    return about(value, 3 if abs(value) >= 100 else 2)
