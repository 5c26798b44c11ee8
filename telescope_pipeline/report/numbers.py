"""Numbers as a reader wants them: as many digits as mean something."""

from __future__ import annotations

import math

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_NARROW_SPACE = "\u202f"
_MINUS = "−"

# Between these magnitudes numbers are written out.
_SMALLEST, _LARGEST = 1e-3, 1e6
# An error smaller than this part of its number is rounding, and would ask for too many digits.
_ROUNDING = 1e-6


def format_number(value: float, digits: int = 4) -> str:
    """Write a number with at most so many significant digits.

    Integers are written in full, with their thousands apart; very small and very large numbers as
    ``1.5 × 10⁻⁵``.

    Args:
        value: A finite number.
        digits: Significant digits of a number that is no integer.

    Returns:
        The text, with a typographic minus sign.
    """
    if not math.isfinite(value):
        return _grouped(str(value))
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < _LARGEST):
        return _grouped(f"{int(value):,}")
    exponent = _exponent(value, digits)
    if _written_out(exponent):
        decimals = max(digits - 1 - exponent, 0)
        text = f"{value:,.{decimals}f}"
        return _grouped(text.rstrip("0").rstrip(".") if "." in text else text)
    mantissa = f"{value / 10.0**exponent:.{digits - 1}f}".rstrip("0").rstrip(".")
    return f"{_grouped(mantissa)}{_power(exponent)}"


def format_estimate(value: float, stderr: float) -> str:
    """Write a number with its standard error, both to the error's second significant digit.

    Args:
        value: The number.
        stderr: Its standard error; 0 for an exact number, which is written alone.

    Returns:
        For example ``0.063 ± 0.023`` or ``(1.52 ± 0.11) × 10⁻⁵``; where the error is mere rounding,
        ``0.366032 ± 3.9 × 10⁻¹⁷``.
    """
    if stderr == 0 or not math.isfinite(value + stderr):
        return format_number(value)
    if abs(stderr) < _ROUNDING * abs(value):
        return f"{format_number(value, 6)} ± {format_number(stderr, 2)}"
    largest = _exponent(max(abs(value), abs(stderr)), 2)
    last = _exponent(stderr, 2) - 1
    if _written_out(largest):
        decimals = max(-last, 0)
        pair = (f"{round(number, -last):,.{decimals}f}" for number in (value, stderr))
        return _grouped(" ± ".join(pair))
    decimals = max(largest - last, 0)
    pair = (f"{number / 10.0**largest:.{decimals}f}" for number in (value, stderr))
    return f"({_grouped(' ± '.join(pair))}){_power(largest)}"


def _exponent(value: float, digits: int) -> int:
    """The power of ten of the first digit, after rounding."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2]) if value else 0


def _written_out(exponent: int) -> bool:
    return math.log10(_SMALLEST) <= exponent < math.log10(_LARGEST)


def _power(exponent: int) -> str:
    return f" × 10{str(exponent).translate(_SUPERSCRIPTS)}"


def _grouped(text: str) -> str:
    return text.replace(",", _NARROW_SPACE).replace("-", _MINUS)
