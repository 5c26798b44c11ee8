"""Muon: momentum that is orthogonalised by a few steps of an iteration."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import UnsupportedOptimizerError
from telescope_core.network.layout import ParameterLayout
from telescope_core.update_rules.base import Slot, UpdateRule

# In which torch iterates, whatever the parameters are.
_PRECISION = torch.bfloat16


class MuonRule(UpdateRule):
    r"""``torch.optim.Muon``, the orthogonalisation held fixed or followed.

    ``M ← μM + (1−μ)G``; ``U = M``, with Nesterov ``μM + (1−μ)G``; ``Δθ = −γ' O − γλθ`` where
    ``X ← (aI + bXXᵀ + c(XXᵀ)²) X`` leads from ``U/‖U‖`` to ``O``.  Each factor in brackets is a
    function of ``UUᵀ``, so that ``O = P(UUᵀ) U``: held at the iterates that the optimizer had, P is
    the preconditioner of the telescoping model.  What the optimizer rounds on the way (it iterates
    in bfloat16) is a constant, and belongs to the columns that follow θ itself.
    """

    _follows = False

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: ParameterLayout,
        parameters: dict[str, Tensor],
        columns: int,
        affine_columns: int,
    ) -> None:
        super().__init__(optimizer, layout, parameters, columns, affine_columns)
        for slot in self.slots:
            self.seed_buffer("momentum", slot, "momentum_buffer")

    @override
    def before_update(self) -> None:
        for slot in self.slots:
            if not self.optimizer.state.get(slot.parameter):
                self.seed_buffer("momentum", slot, "momentum_buffer")

    @override
    def follow_denominators(self) -> None:
        self._follows = True

    @property
    @override
    def reads_position(self) -> bool:
        return any(group["weight_decay"] for group in self.optimizer.param_groups)

    @override
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        for slot, group in self.active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            M = self.buffer("momentum", slot)
            assert M is not None
            mu, rate = float(group["momentum"]), float(group["lr"])
            M.lerp_(G, 1 - mu)
            U = torch.lerp(G, M, mu) if group["nesterov"] else M
            A.mul_(1 - rate * float(group["weight_decay"]))
            A.add_(self._orthogonalised(slot, group, U), alpha=-_adjusted(rate, slot, group))

    @override
    def preconditioner(self) -> None:
        raise UnsupportedOptimizerError(
            "kernel norms need a preconditioner that is diagonal, and Muon's is a matrix; leave "
            "kernel_norms at False"
        )

    def _orthogonalised(self, slot: Slot, group: dict[str, Any], U: Tensor) -> Tensor:
        """What columns ``U`` (size, m) become where the optimizer's own update does."""
        update = self._update(slot, group)
        d_out, d_in = update.shape
        is_tall = d_out > d_in
        scale, iterates = _iterates(update.T if is_tall else update, group)
        # Rows of a layout count the outputs last.
        columns = U.reshape(d_in, d_out, -1).permute(2, *((0, 1) if is_tall else (1, 0)))
        moved = self._through(columns, scale, iterates, group)
        back = moved.permute(*((1, 2) if is_tall else (2, 1)), 0).reshape(U.shape)
        if self.affine_columns:
            own = (update.T if is_tall else update).to(U.dtype)
            rest = iterates[-1].to(U.dtype) - self._through(own[None], scale, iterates, group)[0]
            flat = (rest if is_tall else rest.T).reshape(-1, 1)
            back[:, self.columns - self.affine_columns :] += flat
        return back

    def _update(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        """What the optimizer has orthogonalised, as it stood there."""
        momentum: Tensor = self.optimizer.state[slot.parameter]["momentum_buffer"]
        gradient = slot.parameter.grad
        if not group["nesterov"] or gradient is None:
            return momentum.detach().clone()
        return torch.lerp(gradient.detach(), momentum.detach(), float(group["momentum"]))

    def _through(
        self, columns: Tensor, scale: float, iterates: list[Tensor], group: dict[str, Any]
    ) -> Tensor:
        """Columns (m, rows, cols) through the iteration, linearised at its own iterates."""
        a, b, c = (float(each) for each in group["ns_coefficients"])
        X = iterates[0].to(columns.dtype)
        dX = columns / scale
        if self._follows and scale > float(group["eps"]):
            dX = dX - X * (X * dX).sum(dim=(1, 2), keepdim=True)
        for iterate in iterates[:-1]:
            X = iterate.to(columns.dtype)
            S = X @ X.T
            R = b * S + c * (S @ S)
            moved = a * dX + R @ dX
            if self._follows:
                dS = dX @ X.T
                dS = dS + dS.mT
                moved = moved + (b * dS + c * (dS @ S + S @ dS)) @ X
            dX = moved
        return dX


def _iterates(update: Tensor, group: dict[str, Any]) -> tuple[float, list[Tensor]]:
    """The norm that a wide matrix is divided by, and all that it then becomes."""
    a, b, c = group["ns_coefficients"]
    X = update.to(_PRECISION)
    norm = X.norm().clamp(min=group["eps"])
    X = X / norm
    iterates = [X]
    for _ in range(group["ns_steps"]):
        S = X @ X.T
        X = torch.addmm(X, torch.addmm(S, S, S, beta=b, alpha=c), X, beta=a)
        iterates.append(X)
    return float(norm), iterates


def _adjusted(rate: float, slot: Slot, group: dict[str, Any]) -> float:
    """``γ'``: the rate for a matrix of this shape."""
    d_out, d_in = slot.parameter.shape
    if group["adjust_lr_fn"] == "match_rms_adamw":
        return rate * 0.2 * math.sqrt(max(d_out, d_in))
    return rate * math.sqrt(max(1.0, d_out / d_in))
