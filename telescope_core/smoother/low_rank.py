r"""A smoother of low rank, ``Ŝ = Φ C``, whose measures are known without sampling."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from telescope_core.probes import LabelDirections


@dataclass(frozen=True)
class Control:
    """A control variate: a quantity known per column of a basis and over the directions it samples.

    Attributes:
        columns: Its value for every column of the basis, shape ``(..., m)``.
        outside: Its sum over the complement of the deflated columns, shape ``(...)``.
    """

    columns: Tensor
    outside: Tensor


@dataclass(frozen=True, eq=False)
class LowRankSmoother:
    """``Ŝ = Φ C`` on some rows.

    Attributes:
        Phi: Shape ``(rows, k, d)``, float64.
        C: Shape ``(d, labels)``, float64.
    """

    Phi: Tensor
    C: Tensor

    def explains(self, S: Tensor, directions: LabelDirections) -> bool:
        """Whether Ŝ is closer than zero to the smoother along the deflated columns.

        The answer does not depend on the random columns, so using it leaves estimates unbiased.

        Returns:
            False also without deflated columns.
        """
        d = directions.deflated
        known = S[..., :d].cpu().double()
        V = directions.basis[..., :d].cpu().double().flatten(0, 1)
        rest = known - self.Phi @ (self.C @ V)
        return d > 0 and bool(rest.square().sum() < known.square().sum())

    def squares(self, directions: LabelDirections) -> Control:
        """``‖ŝ(x) v‖²`` per row, summed over its outputs: shapes ``(rows, m)`` and ``(rows,)``."""
        V = directions.basis.cpu().double().flatten(0, 1)
        columns = (self.Phi @ (self.C @ V)).square().sum(dim=1)
        C = self._outside(directions)
        outside = ((self.Phi @ (C @ C.T)) * self.Phi).sum(dim=(1, 2))
        return Control(columns, outside)

    def products(self, directions: LabelDirections) -> Control:
        """``vᵀ Ŝ v`` on the training set: shapes ``(m,)`` and ``()``."""
        V = directions.basis.cpu().double()
        pushed = self.Phi @ (self.C @ V.flatten(0, 1))
        columns = (pushed * V).sum(dim=(0, 1))
        outside = (self.Phi.flatten(0, 1) * self._outside(directions).T).sum()
        return Control(columns, outside)

    def _outside(self, directions: LabelDirections) -> Tensor:
        """C with the deflated directions taken out."""
        deflated = directions.basis.cpu().double().flatten(0, 1)[:, : directions.deflated]
        return self.C - (self.C @ deflated) @ deflated.T
