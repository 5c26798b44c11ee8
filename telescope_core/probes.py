"""Label directions V along which derivatives are carried (docs/mathematics.md, section 6).

Effective parameters are squared norms of smoother rows, so a few random orthonormal label
directions estimate them without bias.  The leading eigenvectors of the initial tangent kernel are
taken exactly (deflation), and the random directions span their complement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from telescope_core.seeds import derive_seed

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

_POWER_ITERATIONS = 3
_OVERSAMPLING = 8


@dataclass(frozen=True)
class LabelDirections:
    r"""Orthonormal columns in label space with the weights that make their squares unbiased.

    Attributes:
        basis: ``V``, shape ``(n, label_width, m)``; the flattened columns are orthonormal.
        weights: Weight of each column in sums of squares, shape ``(m,)``: 1 for the deflated
            columns and for exact bases, (dimension of the complement)/(number of random columns)
            for the random ones.
        deflated: Number of leading columns that are taken exactly.
    """

    basis: Float[Tensor, "n label_width m"]
    weights: Float[Tensor, " m"]
    deflated: int

    @property
    def count(self) -> int:
        """Number of columns m."""
        return int(self.basis.shape[-1])

    @property
    def is_exact(self) -> bool:
        """Whether the columns span all of label space."""
        return self.count == self.basis.shape[0] * self.basis.shape[1]

    def rows(self, index: Int64[Tensor, " b"]) -> Float[Tensor, "b label_width m"]:
        """``V_B`` of some training points, shape ``(b, label_width, m)``."""
        return self.basis[index]


def exact_directions(n: int, label_width: int, like: Tensor) -> LabelDirections:
    """The identity: one column per label."""
    size = n * label_width
    basis = torch.eye(size, dtype=like.dtype, device=like.device).view(n, label_width, size)
    return LabelDirections(basis, like.new_ones(size), deflated=size)


def random_directions(
    n: int,
    label_width: int,
    count: int,
    leading: Float[Tensor, "labels d"] | None,
    seed: int,
    like: Tensor,
) -> LabelDirections:
    """Orthonormal random columns, uniformly distributed in the complement of ``leading``.

    Args:
        n: Training points.
        label_width: Labels per point.
        count: Number of columns in all, ``1 ≤ count ≤ n * label_width``.
        leading: Orthonormal columns taken exactly, shape ``(n * label_width, d)`` with
            ``d < count``, or ``None``.
        seed: Seed of the columns; they are drawn in float64 on the CPU, so they are the same on
            every device.
        like: Gives dtype and device of the result.

    Returns:
        Columns, shape ``(n, label_width, count)``, the leading ones first, with the weights that
        make sums over them estimates of sums over a complete basis.
    """
    size = n * label_width
    first = torch.zeros(size, 0, dtype=torch.float64) if leading is None else leading.cpu().double()
    deflated = first.shape[1]
    drawn = count - deflated
    generator = torch.Generator().manual_seed(derive_seed(seed, "label directions"))
    gaussian = torch.randn(size, drawn, generator=generator, dtype=torch.float64)
    for _ in range(2):  # Twice is enough for orthogonality to rounding.
        gaussian -= first @ (first.T @ gaussian)
    random = torch.linalg.qr(gaussian).Q
    basis = torch.cat([first, random], dim=1).view(n, label_width, count)
    weights = torch.ones(count, dtype=torch.float64)
    weights[deflated:] = (size - deflated) / drawn
    return LabelDirections(basis.to(like), weights.to(like), deflated)


class _Rows(Protocol):
    """Training rows with products by their Jacobian."""

    def jvp(self, directions: Tensor) -> Tensor: ...

    def vjp(self, cotangents: Tensor) -> Tensor: ...


def leading_eigenvectors(
    rows: _Rows, shape: tuple[int, int], count: int, seed: int, like: Tensor
) -> Float[Tensor, "outputs {count}"]:
    """Leading eigenvectors of the tangent kernel ``K_0(X, X)`` by subspace iteration."""
    n, k = shape
    width = min(n * k, count + _OVERSAMPLING)
    generator = torch.Generator().manual_seed(derive_seed(seed, "leading eigenvectors"))
    start = torch.randn(n, k, width, generator=generator, dtype=torch.float64)
    pulled = rows.vjp(start.to(like))
    for _ in range(_POWER_ITERATIONS):
        pushed = rows.jvp(pulled).flatten(0, 1)
        # Not every device has these decompositions, nor float64.
        subspace = torch.linalg.qr(pushed.cpu()).Q.to(like)
        pulled = rows.vjp(subspace.view(n, k, width))
    # Rayleigh-Ritz: within the subspace, K acts as (Jᵀ Q)ᵀ (Jᵀ Q).
    within = torch.linalg.eigh((pulled.T @ pulled).cpu().double()).eigenvectors
    leading = subspace.cpu().double() @ within[:, -count:].flip(1)
    orthonormal: Tensor = torch.linalg.qr(leading).Q
    return orthonormal.to(like)
