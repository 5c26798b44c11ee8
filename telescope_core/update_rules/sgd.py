"""Stochastic gradient descent with momentum, dampening, Nesterov momentum and weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from telescope_core.network.layout import ParameterLayout
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

    @property
    def reads_position(self) -> bool:  # noqa: D102
        return not self._without_decay()

    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:  # noqa: D102
        for slot, group in self._active(skipped):
            arrays = [gradient[slot.segment.rows], path[slot.segment.rows]]
            if group["momentum"]:
                momentum, begun = self._momentum(slot.segment.name, arrays[0])
                arrays.append(momentum)
            for part in self._parts(slot):
                G, A, *M = (array[part] for array in arrays)
                if group["maximize"]:
                    G.neg_()
                if group["weight_decay"]:
                    G.add_(A, alpha=float(group["weight_decay"]))
                if M:
                    G = _with_momentum(G, M[0], begun, group)
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

    def _momentum(self, name: str, like: Tensor) -> tuple[Tensor, bool]:
        """The buffer of a parameter, and whether a step was taken with it before."""
        name = f"momentum/{name}"
        begun = name in self._buffers
        if not begun:
            self._buffers[name] = torch.empty_like(like)
        return self._buffers[name], begun


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


RULES: dict[type[torch.optim.Optimizer], type[UpdateRule]] = {torch.optim.SGD: SGDRule}
