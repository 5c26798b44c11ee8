"""Numbers as the report writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telescope_pipeline.report.numbers import format_estimate, format_number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (2, "2"),
        (20000, "20\u202f000"),
        (12345678, "12\u202f345\u202f678"),
        (-3.0, "−3"),
        (1 / 3, "0.3333"),
        (0.5, "0.5"),
        (123.456, "123.5"),
        (12345.678, "12\u202f346"),
        (0.00123456, "0.001235"),
        (0.000123456, "1.235 × 10⁻⁴"),
        (-1e-8, "−1 × 10⁻⁸"),
        (1.5e7, "1.5 × 10⁷"),
        (1.55e7 + 0.5, "1.55 × 10⁷"),
        (999999.5, "1 × 10⁶"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.06293635530776051, 0.02332024858072736, "0.063 ± 0.023"),
        (37.55061171853805, 4.2495194742458855, "37.6 ± 4.2"),
        (454.2, 0.0, "454.2"),
        (-10.53469, 0.0876, "−10.535 ± 0.088"),
        (12345.6, 678.9, "12\u202f350 ± 680"),
        (9.0479e-5, 4.4197e-5, "(9.0 ± 4.4) × 10⁻⁵"),
        (0.0, 1.0, "0.0 ± 1.0"),
        (1.0, 0.0999, "1.00 ± 0.10"),
        (1.2e8, 3.4e6, "(1.200 ± 0.034) × 10⁸"),
        (0.002, 5.0, "0.0 ± 5.0"),
        (0.366032341273229533, 3.9e-17, "0.366032 ± 3.9 × 10⁻¹⁷"),
    ],
)
def test_estimates(value: float, stderr: float, text: str) -> None:
    assert format_estimate(value, stderr) == text


def _read(text: str) -> float:
    plain = text.replace("\u202f", "").replace("−", "-")
    mantissa, _, power = plain.partition(" × 10")
    exponent = power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return float(mantissa) * 10.0 ** int(exponent or 0)


_FLOATS = st.floats(1e-30, 1e30)


@given(_FLOATS, st.sampled_from([1, -1]))
def test_a_number_is_written_to_four_digits(value: float, sign: int) -> None:
    assert _read(format_number(sign * value)) == pytest.approx(sign * value, rel=5.1e-4)


@given(_FLOATS, _FLOATS)
def test_an_estimate_is_written_to_the_precision_of_its_error(value: float, stderr: float) -> None:
    text = format_estimate(value, stderr)
    if stderr < 1e-6 * value:  # Mere rounding.
        first, second = (_read(part) for part in text.split(" ± "))
        assert first == pytest.approx(value, rel=5.1e-6)
        assert second == pytest.approx(stderr, rel=0.051)
        return
    pair, _, power = text.strip("(").partition(")")
    first, second = (_read(part + power) for part in pair.split(" ± "))

    assert second == pytest.approx(stderr, rel=0.051)
    assert first == pytest.approx(value, abs=0.051 * stderr, rel=1e-12)
