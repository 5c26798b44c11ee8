"""The shared comparison fails when it should and names the likely cause."""

import re

import pytest
import torch

from telescope_core.testing import assert_agrees

X = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def changed(position, value):
    copy = X.clone()
    copy[position] = value
    return copy


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        (X.reshape(2, 8), r"shape \(2, 8\), expected \(4, 4\).*reshape"),
        (X[:3], r"shape \(3, 4\), expected \(4, 4\)$"),
        (changed((1, 2), float("nan")), "1 entries are not finite"),
        (torch.zeros_like(X), "nothing was computed"),
        (-X, "sign is flipped"),
        (X / 3, r"constant factor of 0\.333333"),
        (X.T.contiguous(), "transposed"),
        (X.float().double(), "single precision"),
        (changed((2, 1), 100.0), r"at \(2, 1\).*1 of 16 entries.*some rows.*\[2\]"),
        (X * (1 + 0.01 * X), "another moment"),
        (X + 1, "different recursion"),
    ],
    ids=lambda value: re.sub(r"[^a-z ]", "", value) if isinstance(value, str) else "",
)
def test_messages(actual, message):
    with pytest.raises(AssertionError, match=message) as caught:
        assert_agrees(actual, X, tolerance=1e-12, what="S of test")
    assert str(caught.value).startswith("S of test: ")


def test_tolerance_is_relative_to_the_largest_entry_or_one():
    assert_agrees(X, X.clone(), tolerance=0.0, what="equal")
    assert_agrees(1e6 * X, 1e6 * X + 1e-4, tolerance=1e-9, what="large")
    small = 1e-6 * X
    assert_agrees(small, small + 0.9e-9, tolerance=1e-9, what="small")
    with pytest.raises(AssertionError):
        assert_agrees(small, small + 1.1e-9, tolerance=1e-9, what="small")


def test_empty_or_infinite_expectations_prove_nothing():
    with pytest.raises(AssertionError, match="nothing to compare"):
        assert_agrees(X[:0], X[:0], tolerance=1e-9, what="empty")
    with pytest.raises(AssertionError, match="tamer case"):
        assert_agrees(X, X / 0, tolerance=1e-9, what="diverged")
    with pytest.raises(AssertionError, match="should vanish"):
        assert_agrees(X, torch.zeros_like(X), tolerance=1e-9, what="zero")
