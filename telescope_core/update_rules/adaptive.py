"""RMSprop and Adagrad."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import override

from telescope_core.update_rules.base import DecayingRule, Recursion, Slot


class RMSpropRule(DecayingRule):
    r"""``torch.optim.RMSprop``, the denominators held fixed.

    ``G ← ±G + λθ``; ``φ_t = √v_t + ε`` (centred: ``√(v_t − ḡ_t²) + ε``); ``Δθ = −γ G/φ_t``, or with
    momentum ``M ← μM + G/φ_t`` and ``Δθ = −γ M``.
    """

    @override
    def before_update(self) -> None:
        for slot in self.slots:
            fresh = not self.optimizer.state.get(slot.parameter)
            if fresh or self.buffer("momentum", slot) is None:
                self.seed_buffer("momentum", slot, "momentum_buffer")

    @override
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        for slot, group in self.active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            self.decay(G, A, group)
            denominator = self._denominator(slot, group)[:, None]
            if group["momentum"] > 0:
                M = self.buffer("momentum", slot)
                assert M is not None
                M.mul_(float(group["momentum"])).addcdiv_(G, denominator)
                A.add_(M, alpha=-float(group["lr"]))
            else:
                A.addcdiv_(G, denominator, value=-float(group["lr"]))

    @override
    def preconditioner(self) -> Tensor:
        return self.inverse("square_avg", self._denominator)

    @override
    def recursion(self) -> Recursion:
        group = self.optimizer.param_groups[0]
        return Recursion(float(group["momentum"]), self.sign(group), float(group["lr"]), 0.0)

    def _denominator(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        v = self.state_of(slot, "square_avg")
        assert v is not None
        mean = self.state_of(slot, "grad_avg") if group["centered"] else None
        if mean is not None:
            v = v - mean.square()
        return v.sqrt().add_(float(group["eps"]))


class AdagradRule(DecayingRule):
    r"""``torch.optim.Adagrad``, the denominators held fixed.

    ``G ← ±G + λθ``; ``Δθ = −γ_t G / (√(Σ G²) + ε)`` with ``γ_t = γ/(1 + (t−1)η)``.
    """

    @override
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        for slot, group in self.active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            self.decay(G, A, group)
            rate = self._rate(slot, group)
            A.addcdiv_(G, self._denominator(slot, group)[:, None], value=-rate)

    @override
    def preconditioner(self) -> Tensor:
        return self.inverse("sum", self._denominator)

    @override
    def recursion(self) -> Recursion:
        slot = self.slots[0]
        group = self.optimizer.param_groups[slot.group]
        return Recursion(0.0, self.sign(group), self._rate(slot, group), 0.0)

    def _rate(self, slot: Slot, group: dict[str, Any]) -> float:
        """``γ_t = γ/(1 + (t−1)η)``."""
        step = float(self.optimizer.state[slot.parameter]["step"])
        return float(group["lr"]) / (1 + (step - 1) * float(group["lr_decay"]))

    def _denominator(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        total = self.state_of(slot, "sum")
        assert total is not None
        return total.sqrt().add_(float(group["eps"]))
