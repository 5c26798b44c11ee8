r"""Many equal steps of gradient descent at once: ``Σ_{i<count} (I − X)^i · residual``.

Written in powers of X the sum is

.. math:: \sum_{j<count} \binom{count}{j+1} (-X)^j,

whose terms vanish in working precision after a few as long as ``count · ‖X‖`` is moderate: a block
of steps moves few outputs by much.  The truncated series is evaluated by the scheme of Paterson and
Stockmeyer (1973), with about ``2 √degree`` matrix products.  Otherwise the sum is doubled,
``G_{2a} = (I + M^a) G_a`` with ``M = I − X``, which takes two products for each bit of the count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_VECTORS, _ITERATIONS = 8, 6


def geometric_sum(X: Tensor, count: int, residual: Tensor) -> Tensor:
    """``Σ_{i<count} (I − X)^i · residual`` for a symmetric X, ``(n, columns)``."""
    doublings = 2 * (count.bit_length() - 1) + 1
    # Besides its own products either way squares X first and ends in a product with the residual.
    if (count - 1) * residual.shape[1] <= (doublings + 2) * len(X):
        return _step_by_step(X, count, residual)
    squared = X @ X
    series = _shortest_series(X, squared, count)
    if series is not None and _products(*series) < doublings:
        return _by_series(X, squared, count, *series) @ residual
    return _by_doubling(X, count) @ residual


def _step_by_step(X: Tensor, count: int, residual: Tensor) -> Tensor:
    total, term = residual, residual
    for _ in range(count - 1):
        term = term - X @ term
        total = total + term
    return total


def _products(degree: int, powers: int) -> int:
    """Products of ``n × n`` matrices, the one with the residual among them."""
    return (powers - 1) + degree // powers + 1


def _shortest_series(X: Tensor, squared: Tensor, count: int) -> tuple[int, int] | None:
    """Degree of the truncated series and number of powers to form, if it can be truncated."""
    norm = _spectral_norm(X, squared)
    if not math.isfinite(norm):
        return None
    # What is left out is below the rounding of the sum's largest entries.  Terms fall faster than
    # by half from where count · norm is below half the number of the term.
    tolerance = torch.finfo(X.dtype).eps * count
    largest = term = float(count)
    for degree in range(1, count):
        term *= norm * (count - degree) / (degree + 1)
        largest = max(largest, term)
        if largest > 4 * count:
            return None  # Terms of both signs would cancel digits.
        if term <= tolerance and norm * (count - degree) <= 0.5 * (degree + 2):
            return degree, min(range(2, 9), key=lambda powers: _products(degree, powers))
    return None


def _spectral_norm(X: Tensor, squared: Tensor) -> float:
    """The largest eigenvalue in magnitude, a little from above."""
    # A block of vectors does not miss an eigenvector, and its estimate is within a few per cent
    # after some iterations with X²; row sums are a bound without fail, but often far above.
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(X), _VECTORS, generator=generator, dtype=X.dtype).to(X.device)
    largest = 0.0
    for _ in range(_ITERATIONS):
        vectors = squared @ (vectors / vectors.norm(dim=0))
        largest = float(vectors.norm(dim=0).max())
    return min(1.1 * math.sqrt(largest), float(X.abs().sum(dim=1).max()))


def _by_series(X: Tensor, squared: Tensor, count: int, degree: int, powers: int) -> Tensor:
    """The truncated series, groups of ``powers`` terms summed by Horner's rule in ``X^powers``."""
    of_X = [X, squared]
    while len(of_X) < powers:
        of_X.append(of_X[-1] @ X)
    coefficients = [math.comb(count, j + 1) * (-1.0) ** j for j in range(degree + 1)]
    groups = [coefficients[i : i + powers] for i in range(0, degree + 1, powers)]
    total = torch.zeros_like(X)
    for position, group in enumerate(reversed(groups)):
        if position:
            total = total @ of_X[-1]
        total.diagonal().add_(group[0])
        for power, coefficient in zip(of_X, group[1:], strict=False):
            total.add_(power, alpha=coefficient)
    return total


def _by_doubling(X: Tensor, count: int) -> Tensor:
    """``G_{2a} = G_a + M^a G_a`` and ``G_{a+1} = I + M G_a`` over the bits of the count."""
    M = -X
    M.diagonal().add_(1)
    eye = torch.eye(len(M), dtype=M.dtype, device=M.device)
    G, power = eye, M
    bits = bin(count)[3:]
    for position, bit in enumerate(bits):
        last = position == len(bits) - 1
        G = eye + M if position == 0 else torch.addmm(G, power, G)
        if not last or bit == "1":
            power = power @ power
        if bit == "1":
            G = torch.addmm(eye, M, G)
            power = power if last else M @ power
    return G
