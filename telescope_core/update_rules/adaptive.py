"""RMSprop and Adagrad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from telescope_core.update_rules.base import Recursion, Slot, UpdateRule


class RMSpropRule(UpdateRule):
    r"""``torch.optim.RMSprop``, the denominators held fixed.

    ``G ← ±G + λθ``; ``φ_t = √v_t + ε`` (centred: ``√(v_t − ḡ_t²) + ε``); ``Δθ = −γ G/φ_t``, or with
    momentum ``M ← μM + G/φ_t`` and ``Δθ = −γ M``.
    """

    def before_update(self) -> None:  # noqa: D102
        for slot in self.slots:
            fresh = not self.optimizer.state.get(slot.parameter)
            if fresh or f"momentum/{slot.segment.name}" not in self._buffers:
                self._seed_buffer("momentum", slot, "momentum_buffer")

    @property
    def reads_position(self) -> bool:  # noqa: D102
        return not self._without_decay()

    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:  # noqa: D102
        for slot, group in self._active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            if group["maximize"]:
                G.neg_()
            if group["weight_decay"]:
                G.add_(A, alpha=float(group["weight_decay"]))
            denominator = self._denominator(slot, group)[:, None]
            if group["momentum"] > 0:
                M = self._buffers[f"momentum/{slot.segment.name}"]
                M.mul_(float(group["momentum"])).addcdiv_(G, denominator)
                A.add_(M, alpha=-float(group["lr"]))
            else:
                A.addcdiv_(G, denominator, value=-float(group["lr"]))

    def preconditioner(self) -> Tensor:  # noqa: D102
        return self._inverse("square_avg", self._denominator)

    def recursion(self) -> Recursion:  # noqa: D102
        group = self.optimizer.param_groups[0]
        sign = -1.0 if group["maximize"] else 1.0
        return Recursion(float(group["momentum"]), sign, float(group["lr"]), 0.0)

    def _denominator(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        v = self._rows_of_state(slot, "square_avg")
        assert v is not None
        mean = self._rows_of_state(slot, "grad_avg") if group["centered"] else None
        if mean is not None:
            v = v - mean.square()
        return v.sqrt().add_(float(group["eps"]))


class AdagradRule(UpdateRule):
    r"""``torch.optim.Adagrad``, the denominators held fixed.

    ``G ← ±G + λθ``; ``Δθ = −γ_t G / (√(Σ G²) + ε)`` with ``γ_t = γ/(1 + (t−1)η)``.
    """

    @property
    def reads_position(self) -> bool:  # noqa: D102
        return not self._without_decay()

    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:  # noqa: D102
        for slot, group in self._active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            if group["maximize"]:
                G.neg_()
            if group["weight_decay"]:
                G.add_(A, alpha=float(group["weight_decay"]))
            rate = self._rate(slot, group)
            A.addcdiv_(G, self._denominator(slot, group)[:, None], value=-rate)

    def preconditioner(self) -> Tensor:  # noqa: D102
        return self._inverse("sum", self._denominator)

    def recursion(self) -> Recursion:  # noqa: D102
        slot = self.slots[0]
        group = self.optimizer.param_groups[slot.group]
        sign = -1.0 if group["maximize"] else 1.0
        return Recursion(0.0, sign, self._rate(slot, group), 0.0)

    def _rate(self, slot: Slot, group: dict[str, Any]) -> float:
        """``γ_t = γ/(1 + (t−1)η)``."""
        step = float(self.optimizer.state[slot.parameter]["step"])
        return float(group["lr"]) / (1 + (step - 1) * float(group["lr_decay"]))

    def _denominator(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        total = self._rows_of_state(slot, "sum")
        assert total is not None
        return total.sqrt().add_(float(group["eps"]))


RULES: dict[type[torch.optim.Optimizer], type[UpdateRule]] = {
    torch.optim.RMSprop: RMSpropRule,
    torch.optim.Adagrad: AdagradRule,
}
