"""RMSprop and Adagrad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.update_rules.base import Recursion, Slot
from telescope_core.update_rules.denominators import DividingRule, slope_of_root


class RMSpropRule(DividingRule):
    r"""``torch.optim.RMSprop``, the denominators held fixed or followed.

    ``G ← ±G + λθ``; ``φ_t = √v_t + ε`` (centred: ``√(v_t − ḡ_t²) + ε``); ``Δθ = −γ G/φ_t``, or with
    momentum ``M ← μM + G/φ_t`` and ``Δθ = −γ M``.
    """

    @override
    def before_update(self) -> None:
        for slot in self.slots:
            fresh = not self.optimizer.state.get(slot.parameter)
            if fresh or self.buffer("momentum", slot) is None:
                self.seed_buffer("momentum", slot, "momentum_buffer")
            if fresh:
                self.drop_buffer("square_avg", slot)
                self.drop_buffer("grad_avg", slot)

    @override
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        for slot, group in self.active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            self.decay(G, A, group)
            denominator = self._denominator(slot, group)[:, None]
            along, rate = A, -float(group["lr"])
            if group["momentum"] > 0:
                M = self.buffer("momentum", slot)
                assert M is not None
                along, rate = M.mul_(float(group["momentum"])), 1.0
            along.addcdiv_(G, denominator, value=rate)
            if self.follows:
                g = self.used(slot, group)[:, None]
                moved = self._moved(slot, group, G, g)
                along.addcmul_(moved, g / denominator.square(), value=-rate)
            if along is not A:
                A.add_(along, alpha=-float(group["lr"]))

    def _moved(self, slot: Slot, group: dict[str, Any], G: Tensor, g: Tensor) -> Tensor:
        """Columns of φ, those of ``v`` and ``ḡ`` moved by the columns G of the gradient g."""
        alpha = float(group["alpha"])
        V = self.columns_of("square_avg", slot).mul_(alpha).addcmul_(G, g, value=2 * (1 - alpha))
        v, mean = self._variance(slot, group)
        if mean is not None:
            M = self.columns_of("grad_avg", slot).lerp_(G, 1 - alpha)
            V = torch.addcmul(V, M, mean[:, None], value=-2.0)
        return V * slope_of_root(v)[:, None]

    @override
    def preconditioner(self) -> Tensor:
        return self.inverse("square_avg", self._denominator)

    @override
    def recursion(self) -> Recursion:
        group = self.optimizer.param_groups[0]
        return Recursion(float(group["momentum"]), self.sign(group), float(group["lr"]), 0.0)

    def _denominator(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        return self._variance(slot, group)[0].sqrt().add_(float(group["eps"]))

    def _variance(self, slot: Slot, group: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """What is under the root, and ``ḡ`` if it is subtracted there."""
        v = self.state_of(slot, "square_avg")
        assert v is not None
        mean = self.state_of(slot, "grad_avg") if group["centered"] else None
        return (v, None) if mean is None else (v - mean.square(), mean)


class AdagradRule(DividingRule):
    r"""``torch.optim.Adagrad``, the denominators held fixed or followed.

    ``G ← ±G + λθ``; ``Δθ = −γ_t G / (√(Σ G²) + ε)`` with ``γ_t = γ/(1 + (t−1)η)``.
    """

    @override
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        for slot, group in self.active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            self.decay(G, A, group)
            rate, denominator = self._rate(slot, group), self._denominator(slot, group)[:, None]
            A.addcdiv_(G, denominator, value=-rate)
            if self.follows:
                g, total = self.used(slot, group)[:, None], self._sum(slot)[:, None]
                V = self.columns_of("sum", slot).addcmul_(G, g, value=2.0)
                A.addcmul_(V, g * slope_of_root(total) / denominator.square(), value=rate)

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
        return self._sum(slot).sqrt().add_(float(group["eps"]))

    def _sum(self, slot: Slot) -> Tensor:
        """``Σ G²``."""
        total = self.state_of(slot, "sum")
        assert total is not None
        return total
