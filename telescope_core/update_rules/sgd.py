"""Stochastic gradient descent with momentum, dampening, Nesterov momentum and weight decay."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_core.layout import ParameterLayout
from telescope_core.update_rules.base import Recursion, UpdateRule


class SGDRule(UpdateRule):
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
            if self._rows_of_state(slot, "momentum_buffer") is not None:
                self._seed_buffer("momentum", slot, "momentum_buffer")

    def before_update(self) -> None:  # noqa: D102
        for slot in self.slots:
            name = f"momentum/{slot.segment.name}"
            if name in self._buffers and self._rows_of_state(slot, "momentum_buffer") is None:
                del self._buffers[name]  # The optimizer's buffers were dropped: a warm restart.

    @property
    def is_plain(self) -> bool:
        """Whether a step is ``θ − γ G`` with one γ for all parameters and nothing else."""
        groups = [self.optimizer.param_groups[slot.group] for slot in self.slots]
        return len({float(group["lr"]) for group in groups}) == 1 and not any(
            group["momentum"] or group["weight_decay"] or group["maximize"] for group in groups
        )

    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:  # noqa: D102
        for slot, group in self._active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            if group["maximize"]:
                G.neg_()
            if group["weight_decay"]:
                G.add_(A, alpha=float(group["weight_decay"]))
            if group["momentum"]:
                G = self._with_momentum(slot.segment.name, G, group)
            A.add_(G, alpha=-float(group["lr"]))

    def preconditioner(self) -> None:  # noqa: D102
        return None

    def recursion(self) -> Recursion:  # noqa: D102
        group = self.optimizer.param_groups[0]
        mu, rate = float(group["momentum"]), float(group["lr"])
        sign = -1.0 if group["maximize"] else 1.0
        if not mu:
            return Recursion(0.0, sign, 0.0, sign * rate)
        gain = sign * (1 - float(group["dampening"]))
        if group["nesterov"]:
            return Recursion(mu, gain, rate * mu, sign * rate)
        return Recursion(mu, gain, rate, 0.0)

    def _with_momentum(self, name: str, G: Tensor, group: dict[str, float]) -> Tensor:
        mu = float(group["momentum"])
        M = self._buffers.get(f"momentum/{name}")
        if M is None:
            M = self._buffers[f"momentum/{name}"] = G.clone()
        else:
            M.mul_(mu).add_(G, alpha=1 - float(group["dampening"]))
        return G.add_(M, alpha=mu) if group["nesterov"] else M


RULES: dict[type[torch.optim.Optimizer], type[UpdateRule]] = {torch.optim.SGD: SGDRule}
