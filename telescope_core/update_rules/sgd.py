"""Stochastic gradient descent with momentum, dampening, Nesterov momentum and weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.network.layout import ParameterLayout
from telescope_core.update_rules.base import DecayingRule, Recursion, Slot


class SGDRule(DecayingRule):
    r"""``torch.optim.SGD`` (Eq. 11 for momentum, Eq. 12 for weight decay).

    ``G ← ±G + λθ``; ``M ← μM + (1 − d)G``, at the first step ``M = G``; ``Δθ = −γ M``, or
    ``−γ (G + μM)`` with Nesterov.
    """

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
            if self.state_of(slot, "momentum_buffer") is not None:
                self.seed_buffer("momentum", slot, "momentum_buffer")

    @override
    def before_update(self) -> None:
        for slot in self.slots:
            if self.state_of(slot, "momentum_buffer") is None:  # Not yet, or a warm restart.
                self.drop_buffer("momentum", slot)

    @property
    def is_linear(self) -> bool:
        """Always."""
        return True

    @property
    def is_plain(self) -> bool:
        """Whether a step is ``θ − γ G`` with one γ for all parameters and nothing else."""
        groups = [self.optimizer.param_groups[slot.group] for slot in self.slots]
        return len({float(group["lr"]) for group in groups}) == 1 and not any(
            group["momentum"] or group["weight_decay"] or group["maximize"] for group in groups
        )

    @override
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        for slot, group in self.active(skipped):
            arrays = [gradient[slot.segment.rows], path[slot.segment.rows]]
            if group["momentum"]:
                momentum, begun = self._momentum(slot)
                arrays.append(momentum)
            for part in self.parts(slot):
                G, A, *M = (array[part] for array in arrays)
                self.decay(G, A, group)
                if M:
                    G = _with_momentum(G, M[0], begun, group)
                A.add_(G, alpha=-float(group["lr"]))

    @override
    def preconditioner(self) -> None:
        return None

    @override
    def recursion(self) -> Recursion:
        group = self.optimizer.param_groups[0]
        mu, rate, sign = float(group["momentum"]), float(group["lr"]), self.sign(group)
        if not mu:
            return Recursion(0.0, sign, 0.0, sign * rate)
        gain = sign * (1 - float(group["dampening"]))
        if group["nesterov"]:
            return Recursion(mu, gain, rate * mu, sign * rate)
        return Recursion(mu, gain, rate, 0.0)

    @override
    def exact_recursion(self) -> Recursion | None:
        groups = [self.optimizer.param_groups[slot.group] for slot in self.slots]
        options = {(float(g["lr"]), float(g["momentum"]), bool(g["nesterov"])) for g in groups}
        # Dampening spares the first step, which no recursion does.
        otherwise = any(g["weight_decay"] or g["maximize"] or g["dampening"] for g in groups)
        return None if otherwise or len(options) != 1 else self.recursion()

    def _momentum(self, slot: Slot) -> tuple[Tensor, bool]:
        """The buffer of a parameter, and whether a step was taken with it before."""
        held = self.buffer("momentum", slot)
        if held is None:
            return self.seed_buffer("momentum", slot, "momentum_buffer"), False
        return held, True


def _with_momentum(G: Tensor, M: Tensor, begun: bool, group: dict[str, Any]) -> Tensor:
    """Take G into the momentum M; what the step is along."""
    mu, dampening = float(group["momentum"]), float(group["dampening"])
    if not begun:
        M.copy_(G)
    elif dampening:
        M.mul_(mu).add_(G, alpha=1 - dampening)
    else:
        torch.add(G, M, alpha=mu, out=M)
    return G.add_(M, alpha=mu) if group["nesterov"] else M
