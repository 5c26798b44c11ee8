"""Many steps of gradient descent at once, against taking them one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from telescope_core.smoother import _geometric_sum
from telescope_core.smoother._geometric_sum import geometric_sum

N = 40


def _symmetric(norm: float, *, indefinite: bool = False, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(N, N, generator=generator, dtype=torch.float64))
    lowest = -norm if indefinite else 0.0
    values = torch.linspace(lowest, norm, N, dtype=torch.float64)
    return ((basis * values) @ basis.T).to(dtype)


def _expected(X: Tensor, count: int, residual: Tensor) -> Tensor:
    X, term = X.double(), residual.double()
    total = term.clone()
    for _ in range(count - 1):
        term = term - X @ term
        total += term
    return total


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 31, 32, 100])
@pytest.mark.parametrize("norm", [0.0, 1e-3, 0.02, 0.3, 1.9])
@pytest.mark.parametrize("columns", [1, N])
def test_it_is_the_sum_of_the_steps(count: int, norm: float, columns: int) -> None:
    residual = torch.randn(N, columns, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        X = _symmetric(norm, dtype=dtype)
        total = geometric_sum(X, count, residual.to(dtype))
        expected = _expected(X, count, residual.to(dtype))
        assert (total - expected).abs().max() <= tolerance * expected.abs().max()


def test_growing_directions_are_summed_too() -> None:
    X = _symmetric(0.05, indefinite=True, dtype=torch.float64)
    residual = torch.eye(N, dtype=torch.float64)
    expected = _expected(X, 50, residual)
    total = geometric_sum(X, 50, residual)
    assert (total - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize(("norm", "series"), [(0.02, True), (1.9, False)])
def test_the_series_is_taken_where_few_terms_are_enough(norm: float, series: bool) -> None:
    X = _symmetric(norm, dtype=torch.float32)
    chosen = _geometric_sum._shortest_series(X, X @ X, 32)
    assert (chosen is not None) is series
    if chosen is not None:
        assert _geometric_sum._products(*chosen) <= 6


@pytest.mark.parametrize("power", [0, 1, 4])
@pytest.mark.parametrize("indefinite", [False, True])
def test_the_norm_is_never_below_the_largest_eigenvalue(power: int, indefinite: bool) -> None:
    """Also where many eigenvalues are close to the largest, and where one stands out."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(200, 200, generator=generator))
        values = torch.rand(200, generator=generator) ** power
        values = values - 0.7 * indefinite
        X = (basis * values) @ basis.T
        true = float(values.abs().max())
        assert true <= _geometric_sum._spectral_norm(X, X @ X) <= 1.15 * true


def test_what_is_not_finite_stays_so() -> None:
    """A diverged kernel must not look like a converged sum."""
    X = torch.full((N, N), float("nan"))
    assert geometric_sum(X, 32, torch.eye(N)).isnan().all()
