"""The smoother of plain gradient descent with the tangent kernel frozen over each block, dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.testing.oracle import Blocks, DenseOracle, Path
from telescope_core.testing.rules import ObservedUpdate


@dataclass(frozen=True)
class _Step:
    """One step of the open block: its rows, γ, and the derivatives of the loss gradient."""

    rows: Tensor
    rate: float
    g_f: Tensor
    g_y: Tensor


class FrozenKernelOracle(DenseOracle):
    r"""A :class:`DenseOracle` whose smoother moves through a kernel that is constant in a block.

    With K(x, X) = J(x) J(X)ᵀ, taken as K_s for order 1 and as ½ (K_s + K_e) for order 2, plain
    gradient descent moves every row through what each training point has contributed, R:
    δg = ∂g/∂f (S_s + K R)(X_B) + ∂g/∂Y V_B, then R_B ← R_B − γ δg, and S_e = S_s + K R.
    Predictions are those of the base class.  The optimizer must be SGD without momentum and decay.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._open: list[_Step] = []

    def _follow(
        self,
        index: Tensor,
        g_f: Tensor,
        g_y: Tensor,
        J_now: Blocks,
        update: dict[nn.Parameter, ObservedUpdate],
    ) -> None:
        options = [observed.options for observed in update.values()]
        assert all(o["momentum"] == o["weight_decay"] == 0 and not o["maximize"] for o in options)
        (rate,) = {float(o["lr"]) for o in options}
        self._open.append(_Step(self._positions(index), rate, g_f, g_y))

    def _rows_now(self, path: Path, name: str) -> Tensor:
        S = path.rows_at_block[name]
        S_train = path.rows_at_block["train"]
        K_train, K = self._kernel("train"), self._kernel(name)
        R = torch.zeros_like(S_train)
        for step in self._open:
            S_batch = S_train[step.rows] + K_train[step.rows] @ R
            dg = step.g_f @ S_batch + step.g_y @ path.labels[step.rows]
            for position, row in enumerate(step.rows.tolist()):  # a row may appear twice
                R[row] -= step.rate * dg[position]
        return S + K @ R

    def _kernel(self, name: str) -> Tensor:
        K_s = _gram(self._jacobians_at_block[name], self._jacobians_at_block["train"])
        if self.order == 1:
            return K_s
        now, now_train = self._jacobians_now(name), self._jacobians_now("train")
        return (K_s + _gram(now, now_train)) / 2

    def _close_block(self) -> None:
        super()._close_block()
        self._open = []


def _gram(first: Blocks, second: Blocks) -> Tensor:
    return torch.stack([first[name] @ second[name].T for name in first]).sum(dim=0)
