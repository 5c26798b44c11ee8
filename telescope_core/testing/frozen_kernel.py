"""The smoother of gradient descent with the tangent kernel frozen over each block, dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.testing.dense import product
from telescope_core.testing.oracle import Blocks, DenseOracle, Path
from telescope_core.testing.rules import ObservedUpdate


@dataclass(frozen=True)
class _Step:
    """One step of the open block: its rows, its options, and what the loss gradient does.

    Attributes:
        rows: Positions of the batch's outputs.
        rate: γ.
        momentum: μ; 0 at a step that starts the momentum anew.
        nesterov: μ of Nesterov's step along ``G + μM``; None for the plain one along M.
        g_f: The loss gradient's derivative with respect to the outputs.
        g_y: And with respect to the targets.
    """

    rows: Tensor
    rate: float
    momentum: float
    nesterov: float | None
    g_f: Tensor
    g_y: Tensor


class FrozenKernelOracle(DenseOracle):
    r"""A :class:`DenseOracle` whose smoother moves through a kernel that is constant in a block.

    With K(x, X) = J(x) J(X)ᵀ, taken as K_s for order 1 and as ½ (K_s + K_e) for order 2, plain
    gradient descent moves every row through what each training point has contributed, R:
    δg = ∂g/∂f (S_s + K R)(X_B) + ∂g/∂Y V_B, then R_B ← R_B − γ δg, and S_e = S_s + K R.
    With momentum, what each point has contributed to M is kept as Q, M itself starts the block as
    M_s, and both are seen through J̄ = ½ (J_s + J_e) (order 1: J_s):
    ``M = α M_s + J̄ᵀ Q``, ``S = S_s + K R + ρ J̄ M_s``.
    Predictions are those of the base class.  The optimizer must be SGD without decay and dampening.
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
        observed = list(update.values())
        for each in observed:
            o = each.options
            assert o["weight_decay"] == 0
            assert not (o["momentum"] and o["dampening"])
            assert not o["maximize"]
        ((rate, mu, nesterov, begun),) = {
            (float(e.options["lr"]), e.options["momentum"], e.options["nesterov"], e.had_buffer)
            for e in observed
        }
        along = mu if nesterov else None
        step = _Step(self._positions(index), rate, mu if begun else 0.0, along, g_f, g_y)
        self._open.append(step)

    def _moved(self, path: Path) -> tuple[Tensor, Tensor, float, float]:
        """R, Q, ρ and α of the open block."""
        S = path.rows_at_block["train"]
        K, pushed = self._kernel("train"), self._pushed(path, "train")
        R, Q, rho, alpha = torch.zeros_like(S), torch.zeros_like(S), 0.0, 1.0
        for step in self._open:
            S_batch = (S + K @ R + rho * pushed)[step.rows]
            dg = step.g_f @ S_batch + step.g_y @ path.labels[step.rows]
            G = torch.zeros_like(S)
            for position, row in enumerate(step.rows.tolist()):  # a row may appear twice
                G[row] += dg[position]
            Q, alpha = step.momentum * Q + G, step.momentum * alpha
            if step.nesterov is None:
                R, rho = R - step.rate * Q, rho - step.rate * alpha
            else:
                R = R - step.rate * (G + step.nesterov * Q)
                rho = rho - step.rate * step.nesterov * alpha
        return R, Q, rho, alpha

    def _rows_now(self, path: Path, name: str) -> Tensor:
        R, _, rho, _ = self._moved(path)
        return path.rows_at_block[name] + self._kernel(name) @ R + rho * self._pushed(path, name)

    def _pushed(self, path: Path, name: str) -> Tensor:
        return product(self._average_jacobian(name), path.buffers)

    def _kernel(self, name: str) -> Tensor:
        K_s = _gram(self._jacobians_at_block[name], self._jacobians_at_block["train"])
        if self.order == 1:
            return K_s
        now, now_train = self._jacobians_now(name), self._jacobians_now("train")
        return (K_s + _gram(now, now_train)) / 2

    def _close_block(self) -> None:
        J = self._average_jacobian("train")
        buffers = []
        for path in (self._labels, self._constant):
            _, Q, _, alpha = self._moved(path)
            buffers.append({name: alpha * M + J[name].T @ Q for name, M in path.buffers.items()})
        super()._close_block()
        self._labels.buffers, self._constant.buffers = buffers
        self._open = []


def _gram(first: Blocks, second: Blocks) -> Tensor:
    return torch.stack([first[name] @ second[name].T for name in first]).sum(dim=0)
