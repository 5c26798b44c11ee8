"""Adam, AdamW, NAdam and RAdam."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.network.layout import ParameterLayout
from telescope_core.update_rules.base import Recursion, Slot, UpdateRule
from telescope_core.update_rules.denominators import DividingRule, slope_of_root


class _FirstMomentRule(DividingRule):
    """Rules with ``M ← β₁M + (1−β₁)G`` and coupled or decoupled weight decay."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: ParameterLayout,
        parameters: dict[str, Tensor],
        columns: int,
        affine_columns: int,
    ) -> None:
        super().__init__(optimizer, layout, parameters, columns, affine_columns)
        self._last_phi: dict[str, Tensor] = {}
        self._borrowed: dict[str, Tensor] | None = None
        for slot in self.slots:
            self.seed_buffer("first_moment", slot, "exp_avg")

    def before_update(self) -> None:
        for slot in self.slots:
            if not self.optimizer.state.get(slot.parameter):
                self.seed_buffer("first_moment", slot, "exp_avg")
                self.drop_buffer("second_moment", slot)
                self.drop_buffer("largest_second_moment", slot)

    def borrow(self, other: UpdateRule) -> None:
        if isinstance(other, _FirstMomentRule):
            self._borrowed = other._last_phi

    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        phi_of, self._borrowed = self._borrowed, None
        if phi_of is None:
            active = self.active(skipped)
            phi_of = {slot.segment.name: self._denominator(slot, group) for slot, group in active}
        self._last_phi = phi_of
        for slot, group in self.active(skipped):
            arrays = (
                gradient[slot.segment.rows],
                path[slot.segment.rows],
                self._first_moment(slot),
                self._last_phi[slot.segment.name][:, None],
            )
            along_M, along_G = self._rates(slot, group)
            decay = float(group["weight_decay"])
            bend = self._bend(slot, group) if self.follows else None
            for part in self.parts(slot):
                G, A, M, phi = (array[part] for array in arrays)
                if group["maximize"]:
                    G.neg_()
                if decay and group["decoupled_weight_decay"]:
                    A.mul_(1 - float(group["lr"]) * decay)
                elif decay:
                    G.add_(A, alpha=decay)
                M.lerp_(G, 1 - float(group["betas"][0]))
                A.addcdiv_(M, phi, value=-along_M)
                if along_G:
                    A.addcdiv_(G, phi, value=-along_G)
                if bend is not None:
                    bend(part, G, A)

    def _bend(self, slot: Slot, group: dict[str, Any]) -> Callable[[slice, Tensor, Tensor], None]:
        """Adds to columns A what those G of the gradient do by way of the denominators."""
        beta2, g = float(group["betas"][1]), self.used(slot, group)
        along_M, along_G = self._rates(slot, group)
        v, M = self._second_moment(slot, group), self.state_of(slot, "exp_avg")
        assert M is not None
        slope = slope_of_root(v) / math.sqrt(self._second_correction(slot, group))
        gain = (along_M * M + along_G * g) * slope / self._last_phi[slot.segment.name].square()
        if not self._divides(slot, group):
            gain.zero_()
        V = self.columns_of("second_moment", slot)
        now = self.state_of(slot, "exp_avg_sq") if group.get("amsgrad") else None

        def bend(part: slice, G: Tensor, A: Tensor) -> None:
            moved = V[part].mul_(beta2).addcmul_(G, g[part, None], value=2 * (1 - beta2))
            if now is not None:
                before = self.columns_of("largest_second_moment", slot)[part]
                rises = torch.eq(now, v)[part, None]
                moved = before.copy_(torch.where(rises, moved, before))
            A.addcmul_(moved, gain[part, None])

        return bend

    def _divides(self, slot: Slot, group: dict[str, Any]) -> bool:
        """Whether the step is divided by its denominator at all."""
        return True

    def _first_moment(self, slot: Slot) -> Tensor:
        moment = self.buffer("first_moment", slot)
        assert moment is not None
        return moment

    def load_buffers(self, buffers: dict[str, Tensor]) -> None:
        super().load_buffers(buffers)
        self._last_phi = {}

    def preconditioner(self) -> Tensor:
        return self.inverse("exp_avg_sq", self._denominator_of_last_push)

    def _denominator_of_last_push(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        phi = self._last_phi.get(slot.segment.name)
        return self._denominator(slot, group) if phi is None else phi

    def recursion(self) -> Recursion:
        slot = self.slots[0]
        group = self.optimizer.param_groups[slot.group]
        beta1 = float(group["betas"][0])
        sign = self.sign(group)
        momentum_rate, gradient_rate = self._rates(slot, group)
        return Recursion(beta1, sign * (1 - beta1), momentum_rate, sign * gradient_rate)

    @abstractmethod
    def _rates(self, slot: Slot, group: dict[str, Any]) -> tuple[float, float]:
        """The step along ``M`` and along ``G``, before the preconditioner."""

    def _step_of(self, slot: Slot) -> float:
        return float(self.optimizer.state[slot.parameter]["step"])

    def _second_correction(self, slot: Slot, group: dict[str, Any]) -> float:
        """``1 − β₂ᵗ``."""
        beta2 = float(group["betas"][1])
        return 1.0 - math.pow(beta2, self._step_of(slot))

    def _second_moment(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        key = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
        second_moment = self.state_of(slot, key)
        assert second_moment is not None
        return second_moment

    def _denominator(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        """``φ_t = √(v_t/(1−β₂ᵗ)) + ε``."""
        correction = math.sqrt(self._second_correction(slot, group))
        root = self._second_moment(slot, group).sqrt()
        return root.div_(correction).add_(float(group["eps"]))


class AdamRule(_FirstMomentRule):
    r"""``torch.optim.Adam`` and ``torch.optim.AdamW``, the denominators held fixed or followed.

    ``G ← ±G (+ λθ`` if the decay is coupled); ``M ← β₁M + (1−β₁)G``;
    ``Δθ = −γ (M/(1−β₁ᵗ)) / φ_t`` with ``φ_t = √(v_t/(1−β₂ᵗ)) + ε`` at the value the optimizer
    used; a decoupled decay adds ``−γλθ_{t−1}``.
    """

    def _rates(self, slot: Slot, group: dict[str, Any]) -> tuple[float, float]:
        correction = 1 - float(group["betas"][0]) ** self._step_of(slot)
        return float(group["lr"]) / correction, 0.0


class NAdamRule(_FirstMomentRule):
    r"""``torch.optim.NAdam``: Nesterov momentum with a schedule, denominators as Adam's.

    ``Δθ = −γ [ (1−μ_t) G/(1−Πμ) + μ_{t+1} M/(1−Πμ·μ_{t+1}) ] / φ_t`` with
    ``μ_t = β₁ (1 − ½·0.96^{tψ})``.
    """

    def _rates(self, slot: Slot, group: dict[str, Any]) -> tuple[float, float]:
        step, rate = self._step_of(slot), float(group["lr"])
        mu, mu_next = (
            float(group["betas"][0]) * (1 - 0.5 * 0.96 ** (t * float(group["momentum_decay"])))
            for t in (step, step + 1)
        )
        product = float(self.optimizer.state[slot.parameter]["mu_product"])
        return rate * mu_next / (1 - product * mu_next), rate * (1 - mu) / (1 - product)


class RAdamRule(_FirstMomentRule):
    r"""``torch.optim.RAdam``: rectified Adam, the denominators held fixed or followed.

    Until the variance of the adaptive rate is tractable (``ρ_t ≤ 5``) the step is
    ``−γ M/(1−β₁ᵗ)``; afterwards it is rectified and divided by ``φ_t``.
    """

    def _rates(self, slot: Slot, group: dict[str, Any]) -> tuple[float, float]:
        step = self._step_of(slot)
        rate = float(group["lr"]) / (1 - float(group["betas"][0]) ** step)
        rectifier = _rectifier(step, float(group["betas"][1]))
        return rate if rectifier is None else rate * rectifier, 0.0

    @override
    def _divides(self, slot: Slot, group: dict[str, Any]) -> bool:
        return _rectifier(self._step_of(slot), float(group["betas"][1])) is not None

    def _denominator(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        if not self._divides(slot, group):
            return torch.ones_like(self._second_moment(slot, group))
        root = self._second_moment(slot, group).sqrt().add_(float(group["eps"]))
        return root.div_(math.sqrt(self._second_correction(slot, group)))


def _rectifier(step: float, beta2: float) -> float | None:
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
    if rho <= 5:
        return None
    ratio = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    return math.sqrt(ratio)
