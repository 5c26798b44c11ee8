r"""A cheap model of the smoother's stiff modes, to take their noise out of probed estimates.

In minibatch training the few outputs with the largest kernel eigenvalues forget all but the last
batches: their rows of S are dense in the labels of those batches and change with every step.  No
label direction chosen in advance covers them, and they dominate the variance of random ones.  But
they are easy to follow with *all* labels at once.  With U the leading eigenvectors of the kernel,
``(n·k, d)``, the rows ``C ≈ Uᵀ S_train`` obey the smoother's recursion projected onto U
(docs/mathematics.md, sections 3 and 6),

.. math::
    Γ_t &= U^\top J P J_B^\top\, c\,(U_B C_{t-1} - I_B) \\
    M_t &= a M_{t-1} + b Γ_t, \qquad C_t = C_{t-1} - (c_M M_t + c_G Γ_t),

for a loss with ``g = c (f − y)``, with Jᵀ U averaged over the last few batches and P as it was when
the gradient was taken, which costs little beside the probes.  ``Ŝ = Φ C``, with
``Φ = H (Uᵀ H_train)⁻¹`` and ``H = J P Jᵀ U``, is then a control variate: its measures are known,
and probes estimate only the difference to those of S.  Ŝ does not depend on the random
directions, so this is right whatever Ŝ is; where it has lost track of S it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from weakref import ref

import torch
from torch import Tensor

from telescope_core.jacobians import Linearization, LinearizedRows
from telescope_core.smoother.low_rank import LowRankSmoother
from telescope_core.update_rules import Recursion, UpdateRule

# The noise is in the stiffest modes; for more of them the projection is too crude to help.
_MODES = 4
# Weight of the last batch in the running estimate of JᵀU: about three batches count.
_FRESH = 0.3


@dataclass(frozen=True, eq=False)
class _Projection:
    """What :meth:`StiffModes.model` takes from the training set alone.

    Attributes:
        at: The training set as it was linearised; not kept alive by this.
        H: Of its rows, ``(n, k, d)``.
        inverse: ``(Uᵀ H)⁻¹``, float64, ``(d, d)``; ``None`` if it is not finite.
    """

    at: ref[LinearizedRows]
    H: Tensor
    inverse: Tensor | None


@dataclass
class StiffModes:
    """The state of the projected recursion.

    Attributes:
        U: Orthonormal leading outputs of the training set, ``(n·k, d)``.
        C: ``Uᵀ S_train`` under the projected model, ``(d, n·k)``.
        M: Its momentum, ``(d, n·k)``.
        JU: A running estimate of ``Jᵀ U`` from the last batches, ``(p, d)``; no rows before the
            first step.
        PJU: The same times the last preconditioner.
    """

    U: Tensor
    C: Tensor
    M: Tensor
    JU: Tensor
    PJU: Tensor
    _projection: _Projection | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def begin(cls, leading: Tensor) -> StiffModes:
        """The state before training."""
        U = leading[:, :_MODES].contiguous()
        size, d = U.shape
        nothing = U.new_zeros(0, d)
        return cls(U, U.new_zeros(d, size), U.new_zeros(d, size), nothing, nothing)

    def cotangents(self, index: Tensor, k: int) -> Tensor:
        """``U_B``, scaled so that sums over the batch stand for all rows, ``(b, k, d)``."""
        U_B = self.U[_positions(index, k)]
        return (U_B * (len(self.U) / len(U_B))).view(-1, k, self.U.shape[1])

    def step(
        self,
        index: Tensor,
        scale: Tensor | float,
        batch: Linearization,
        pulled: Tensor,
        rule: UpdateRule,
    ) -> None:
        """Follow one step, right after the optimizer's.

        Args:
            index: Positions of the batch in the training set, ``(b,)``.
            scale: c, with ``g = c (f − y)`` as the optimizer saw it.
            batch: The batch, linearised where its gradient was taken.
            pulled: ``Jᵀ`` times the batch's :meth:`cotangents`, ``(p, d)``.
            rule: The optimizer's rule, for P and its coefficients a, b, c_M and c_G.
        """
        self._projection = None
        positions = _positions(index, batch.outputs.shape[1])
        self.JU = self.JU.lerp_(pulled, _FRESH) if len(self.JU) else pulled.clone()
        P = rule.preconditioner()
        self.PJU = self.JU if P is None else self.JU * P[:, None]
        H_B = batch.jvp(self.PJU).flatten(0, 1)
        recursion = rule.recursion()
        assert recursion is not None
        self.advance(positions, scale, H_B, recursion)

    def advance(
        self, positions: Tensor, scale: Tensor | float, H_B: Tensor, recursion: Recursion
    ) -> None:
        """One step of the projected recursion.

        Args:
            positions: Of the batch's outputs among all ``n·k``.
            scale: c, with ``g = c (f − y)`` as the optimizer saw it.
            H_B: The batch's rows of ``J P Jᵀ U``, shape ``(positions, d)``.
            recursion: The optimizer's step.
        """
        Gamma = (H_B.T @ self.U[positions]) @ self.C
        Gamma.index_add_(1, positions, H_B.T, alpha=-1)
        Gamma *= scale
        self.M.mul_(recursion.memory).add_(Gamma, alpha=recursion.gain)
        self.C.sub_(self.M, alpha=recursion.momentum_rate)
        self.C.sub_(Gamma, alpha=recursion.gradient_rate)

    def model(self, name: str, at_start: Mapping[str, LinearizedRows]) -> LowRankSmoother | None:
        """``Ŝ = Φ C`` on a set; ``None`` before the first step or if it is not finite."""
        if not len(self.PJU):
            return None
        projection = self._project(at_start["train"])
        H = projection.H if name == "train" else at_start[name].jvp(self.PJU)
        return self.low_rank(H, projection.inverse)

    def low_rank(self, H: Tensor, inverse: Tensor | None) -> LowRankSmoother | None:
        """``Ŝ`` on some rows.

        Args:
            H: Their ``J P Jᵀ U``, shape ``(rows, k, d)``.
            inverse: What :meth:`inverted` gave.

        Returns:
            ``Φ C``; None if it is not finite.
        """
        if inverse is None or not bool(torch.isfinite(self.C).all()):
            return None
        return LowRankSmoother(H.cpu().double() @ inverse, self.C.cpu().double())

    def inverted(self, H: Tensor) -> Tensor | None:
        """``(Uᵀ H)⁻¹`` for H of all training outputs; None if it is not finite."""
        core = self.U.T.cpu().double() @ H.flatten(0, 1).cpu().double()
        return torch.linalg.pinv(core) if bool(torch.isfinite(core).all()) else None

    def _project(self, train: LinearizedRows) -> _Projection:
        """The training set's part, once for all sets of a record."""
        if self._projection is None or self._projection.at() is not train:
            H = train.jvp(self.PJU)
            self._projection = _Projection(ref(train), H, self.inverted(H))
        return self._projection

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""
        return {"U": self.U, "C": self.C, "M": self.M, "JU": self.JU, "PJU": self.PJU}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> StiffModes:
        """Take over what :meth:`tensors` gave."""
        return cls(*(tensors[name].clone() for name in ("U", "C", "M", "JU", "PJU")))


def _positions(index: Tensor, k: int) -> Tensor:
    """Where the outputs of some points stand among all ``n·k``."""
    return (index[:, None] * k + torch.arange(k, device=index.device)).flatten()
