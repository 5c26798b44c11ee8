"""Label directions V along which derivatives are carried (docs/mathematics.md, section 6).

Effective parameters are squared norms of smoother rows, so a few random orthonormal label
directions estimate them without bias.  The leading eigenvectors of the initial tangent kernel are
taken exactly (deflation), and the random directions span their complement.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.seeds import derive_seed

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

_POWER_ITERATIONS = 3
_OVERSAMPLING = 8


class Directions(ABC):
    """Columns in label space along which training is differentiated.

    Attributes:
        n: Training points.
        label_width: Labels of one of them.
        weights: Weight of each column in sums of squares, ``(m,)``, which makes them unbiased.
        deflated: Number of leading columns that are taken exactly.
    """

    n: int
    label_width: int
    weights: Tensor
    deflated: int

    @property
    def count(self) -> int:
        """Number of columns m."""
        return len(self.weights)

    @property
    def is_exact(self) -> bool:
        """Whether the columns span all of label space."""
        return False

    @abstractmethod
    def rows(self, index: Int64[Tensor, " b"]) -> Float[Tensor, "b label_width m"]:
        """``V_B`` of some training points, shape ``(b, label_width, m)``."""

    @abstractmethod
    def error(self, values: Tensor) -> float:
        """The standard error of a sum over label space, from its values along random columns.

        Args:
            values: What the random columns, two at least, contribute before they are weighted.
        """


@dataclass(frozen=True)
class LabelDirections(Directions):
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

    n: int = field(init=False)
    label_width: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", self.basis.shape[0])
        object.__setattr__(self, "label_width", self.basis.shape[1])

    @property
    @override
    def count(self) -> int:
        return int(self.basis.shape[-1])

    @property
    @override
    def is_exact(self) -> bool:
        return self.count == self.n * self.label_width

    @override
    def rows(self, index: Int64[Tensor, " b"]) -> Float[Tensor, "b label_width m"]:
        return self.basis[index]

    @override
    def error(self, values: Tensor) -> float:
        # They are drawn without replacement from the complement, hence the finite population
        # factor, which vanishes for a complete basis.
        drawn = self.count - self.deflated
        population = self.n * self.label_width - self.deflated
        variance = float(values.var()) * (1 - drawn / population)
        return population * math.sqrt(variance / drawn)


@dataclass(frozen=True)
class StreamedDirections(Directions):
    """Signs that are made when a row is met, from nothing but its identity.

    A counter-based generator (the mixing of SplitMix64, Steele et al. 2014) keyed by the seed, the
    row, the label and the column: nothing of the size of the training set is kept, and a row that
    comes again, in any order, on any device and in any process, has the same signs.  Entries are
    independent with mean 0 and variance 1, so a mean over columns of squares along them is an
    unbiased sum over all labels (Hutchinson 1989).

    Attributes:
        n: Training points.
        label_width: Labels of one of them.
        weights: ``1/m`` each.
        seed: Of the generator.
    """

    n: int
    label_width: int
    weights: Float[Tensor, " m"]
    seed: int
    deflated: int = 0

    @override
    def rows(self, index: Int64[Tensor, " b"]) -> Float[Tensor, "b label_width m"]:
        key = derive_seed(self.seed, "streamed label directions")
        row = _mixed(index.to(torch.int64) + key)
        entry = torch.arange(self.label_width * self.count, device=index.device)
        bits = _mixed(row[:, None] ^ _mixed(entry + 1))
        signs = torch.where(bits < 0, -1.0, 1.0).to(self.weights)
        return signs.reshape(len(index), self.label_width, self.count)

    @override
    def error(self, values: Tensor) -> float:
        return math.sqrt(float(values.var()) / len(values))


def _mixed(counter: Tensor) -> Tensor:
    """The finaliser of SplitMix64, whose arithmetic wraps around as that of int64 does."""
    x = counter * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> by) & ((1 << (64 - by)) - 1)


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
