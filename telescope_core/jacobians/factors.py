r"""How one use of a layer enters the Jacobian, as factors instead of per-sample matrices.

For a linear map ``z = W a + b`` the Jacobian of output ``j`` of a row with respect to ``W`` is the
outer product ``δ_j ⊗ a`` of the backpropagated factor :math:`δ_j = ∂f_j/∂z` and the layer's input
``a``, summed over the positions of a sequence or an image.  Every product with ``J`` is then a
matrix product of factors, and the tangent kernel is ``Σ_layers (a aᵀ) ∘ (δ δᵀ)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.jacobians.buffers import scratch
from telescope_core.network.layout import Segment

# Largest temporary of a product; more rows are taken in chunks.  It should stay in a cache.
_TEMPORARY_BYTES = 16 * 2**20
# Contracting with δ first takes d_in products of this width, which are slow when narrow.
_MANY_COLUMNS = 24


@dataclass(frozen=True)
class Factor(ABC):
    """The Jacobian of all outputs with respect to some rows of θ.

    Attributes:
        rows_in_theta: Those rows.
    """

    rows_in_theta: slice

    @abstractmethod
    def add_jvp(self, result: Tensor, directions: Tensor) -> None:
        """Add ``J · directions`` (``(size, m)``) to ``result``, shape ``(rows, k, m)``."""

    @abstractmethod
    def add_vjp(self, result: Tensor, cotangents: Tensor, beta: int) -> None:
        """Put ``beta · result + Jᵀ · cotangents`` into ``result``, shape ``(size, m)``.

        Cotangents are of shape ``(rows, k, m)``.  β is 0 or 1; with 0, what ``result`` held is not
        read.
        """

    @abstractmethod
    def dense(self) -> Tensor:
        """The Jacobian itself, shape ``(rows, k, size)``."""

    @abstractmethod
    def select(self, index: Tensor) -> Factor:
        """The factor restricted to some rows."""

    def add_gram(self, result: Tensor, other: Factor) -> None:
        """Add ``J · J_otherᵀ`` to ``result``, shape ``(rows * k, rows_other * k)``."""
        result.addmm_(self.dense().flatten(0, 1), other.dense().flatten(0, 1).T)


@dataclass(frozen=True)
class OuterFactor(Factor):
    r"""A linear map or a convolution.

    A product with many columns contracts two of the three indices of ``a_i δ_o D_{iom}`` one after
    the other, whichever leaves the smaller temporary first; with many positions, it is cheaper to
    sum them into an explicit Jacobian.

    Attributes:
        inputs: Inputs per position, ``(rows, s, d)``, with s the number of positions.
        delta: ``(rows, k, s, d_out)``.
        has_bias: Whether a bias is folded in, as one more input that is always 1.
    """

    inputs: Tensor
    delta: Tensor
    has_bias: bool = False

    @cached_property
    def a(self) -> Tensor:
        """The inputs with the constant 1 last, ``(rows, s, d_in)``; tangent kernels need none."""
        if not self.has_bias:
            return self.inputs
        ones = self.inputs.new_ones(*self.inputs.shape[:2], 1)
        return torch.cat([self.inputs, ones], dim=-1)

    @override
    def add_jvp(self, result: Tensor, directions: Tensor) -> None:
        m = directions.shape[-1]
        s, d_in, d_out = self._sizes
        if self._prefers_dense(m):
            for part in self._chunks(self._k * d_in * d_out):
                result[part] += self._dense(part) @ directions
            return
        if self._prefers_delta_first(m):
            columns = directions.reshape(d_in, d_out, m)
            for part in self._chunks(self._k * d_in * m):
                delta = self.delta[part].flatten(0, 2)
                pushed = scratch(delta, d_in, len(delta), m)
                torch.matmul(delta, columns, out=pushed)
                pushed = pushed.view(d_in, -1, self._k * m).transpose(0, 1)
                result[part].view(-1, 1, self._k * m).baddbmm_(self.a[part], pushed)
            return
        matrix = directions.reshape(d_in, d_out * m)
        for part in self._chunks(s * d_out * m):
            a = self.a[part].flatten(0, 1)
            pushed = torch.mm(a, matrix, out=scratch(a, len(a), d_out * m))
            result[part].baddbmm_(self.delta[part].flatten(2), pushed.view(-1, s * d_out, m))

    @override
    def add_vjp(self, result: Tensor, cotangents: Tensor, beta: int) -> None:
        m = cotangents.shape[-1]
        s, d_in, d_out = self._sizes
        if self._prefers_dense(m):
            for part in self._chunks(self._k * d_in * d_out):
                jacobian = self._dense(part).flatten(0, 1)
                result.addmm_(jacobian.T, cotangents[part].flatten(0, 1), beta=beta)
                beta = 1
            return
        if self._prefers_delta_first(m):
            target = result.view(d_in, d_out, m)
            for part in self._chunks(self._k * d_in * m):
                delta = self.delta[part].flatten(0, 2).T.expand(d_in, -1, -1)
                a = self.a[part].permute(2, 0, 1)[..., None]
                pulled = scratch(a, d_in, a.shape[1], self._k, m)
                torch.mul(a, cotangents[part], out=pulled)
                target.baddbmm_(delta, pulled.view(d_in, -1, m), beta=beta)
                beta = 1
            return
        target = result.view(d_in, d_out * m)
        for part in self._chunks(s * d_out * m):
            delta = self.delta[part].flatten(2).transpose(1, 2)
            pulled = scratch(delta, len(delta), s * d_out, m)
            torch.bmm(delta, cotangents[part], out=pulled)
            a = self.a[part].flatten(0, 1)
            target.addmm_(a.T, pulled.view(-1, d_out * m), beta=beta)
            beta = 1

    @override
    def dense(self) -> Tensor:
        return self._dense(slice(None))

    @override
    def select(self, index: Tensor) -> OuterFactor:
        return OuterFactor(self.rows_in_theta, self.inputs[index], self.delta[index], self.has_bias)

    @override
    def add_gram(self, result: Tensor, other: Factor) -> None:
        if not isinstance(other, OuterFactor) or self._sizes[0] > 1 or other._sizes[0] > 1:
            super().add_gram(result, other)
            return
        (rows, k), others = self.delta.shape[:2], len(other.delta)
        # Constant inputs 1 contribute 1 to every entry.
        one = self.inputs.new_full((), float(self.has_bias))
        inputs = torch.addmm(one, self.inputs[:, 0], other.inputs[:, 0].T)
        deltas = self.delta.flatten(0, 1).flatten(1) @ other.delta.flatten(0, 1).flatten(1).T
        shape = (rows, k, others, k)
        result.view(shape).addcmul_(deltas.view(shape), inputs[:, None, :, None])

    @property
    def _sizes(self) -> tuple[int, int, int]:
        positions, width = self.inputs.shape[1:]
        return positions, width + self.has_bias, self.delta.shape[-1]

    @property
    def _k(self) -> int:
        return self.delta.shape[1]

    def _prefers_delta_first(self, m: int) -> bool:
        """Whether contracting with δ first leaves no more than contracting with ``a`` first."""
        positions, width = self.inputs.shape[1:]
        narrower = self._k * width <= self.delta.shape[-1]
        return positions == 1 and m >= _MANY_COLUMNS and narrower

    def _prefers_dense(self, m: int) -> bool:
        """Whether summing over positions first costs less than pushing every position."""
        s = self.inputs.shape[1]
        return s * m > self._k * (s + m)

    def _dense(self, part: slice) -> Tensor:
        a, delta = self.a[part], self.delta[part]
        rows, k = delta.shape[:2]
        product = a.transpose(1, 2)[:, None] @ delta
        return product.reshape(rows, k, -1)

    def _chunks(self, entries_a_row: int) -> list[slice]:
        rows = len(self.inputs)
        step = max(1, _TEMPORARY_BYTES // max(1, entries_a_row * self.inputs.dtype.itemsize))
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


@dataclass(frozen=True)
class DenseFactor(Factor):
    """Parameters few enough for an explicit Jacobian: biases, scales, grouped convolutions.

    Attributes:
        jacobian: ``(rows, k, size)``.
    """

    jacobian: Tensor

    @classmethod
    def of(cls, parameter: Segment, jacobian: Tensor) -> DenseFactor:
        """The factor of a parameter.

        Args:
            parameter: Its rows of θ.
            jacobian: With respect to it, shape ``(rows, k, *parameter.shape)``.

        Returns:
            The factor with its columns in the order of θ.
        """
        if parameter.output_last:
            jacobian = jacobian.movedim(2, -1)
        return cls(parameter.rows, jacobian.flatten(2))

    @override
    def add_jvp(self, result: Tensor, directions: Tensor) -> None:
        result += self.jacobian @ directions

    @override
    def add_vjp(self, result: Tensor, cotangents: Tensor, beta: int) -> None:
        result.addmm_(self.jacobian.flatten(0, 1).T, cotangents.flatten(0, 1), beta=beta)

    @override
    def dense(self) -> Tensor:
        return self.jacobian

    @override
    def select(self, index: Tensor) -> DenseFactor:
        return DenseFactor(self.rows_in_theta, self.jacobian[index])


@dataclass(frozen=True)
class EmbeddingFactor(Factor):
    """A table look-up; the table's rows of θ run over ``(dimension, entries)``.

    Attributes:
        entries: Number of entries of the table.
        index: Entries looked up, ``(rows, s)``.
        delta: ``(rows, k, s, dimension)``.
    """

    entries: int
    index: Tensor
    delta: Tensor

    @override
    def add_jvp(self, result: Tensor, directions: Tensor) -> None:
        table = directions.view(self.delta.shape[-1], self.entries, -1)
        for position in range(self.index.shape[1]):
            looked_up = table[:, self.index[:, position]].transpose(0, 1)
            result += self.delta[:, :, position] @ looked_up

    @override
    def add_vjp(self, result: Tensor, cotangents: Tensor, beta: int) -> None:
        if not beta:
            result.zero_()
        table = result.view(self.delta.shape[-1], self.entries, -1)
        for position in range(self.index.shape[1]):
            pulled = self.delta[:, :, position].transpose(1, 2) @ cotangents
            table.index_add_(1, self.index[:, position], pulled.transpose(0, 1).contiguous())

    @override
    def dense(self) -> Tensor:
        rows, k, s, dimension = self.delta.shape
        jacobian = self.delta.new_zeros(rows, k, dimension, self.entries)
        for position in range(s):
            where = self.index[:, position].view(rows, 1, 1, 1).expand(rows, k, dimension, 1)
            jacobian.scatter_add_(3, where, self.delta[:, :, position, :, None])
        return jacobian.flatten(2)

    @override
    def select(self, index: Tensor) -> EmbeddingFactor:
        return EmbeddingFactor(
            self.rows_in_theta, self.entries, self.index[index], self.delta[index]
        )
