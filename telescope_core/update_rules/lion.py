"""Lion: steps along the sign of an average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import UnsupportedOptimizerError
from telescope_core.network.layout import ParameterLayout
from telescope_core.update_rules.base import UpdateRule


class LionRule(UpdateRule):
    r"""``lion_pytorch.Lion``, the scales ``1/|C|`` held fixed.

    ``C = β₁M + (1−β₁)G``; ``Δθ = −γ sign(C) − γλθ``; ``M ← β₂M + (1−β₂)G``.  With
    ``sign(C) = C/|C|`` the step is along C, preconditioned by ``1/|C|`` at its actual value, as
    Adam's by its denominators.  The derivative itself of a sign is zero almost everywhere, so that
    no label would matter in an exact account: there is none.
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
        self._scale: dict[str, Tensor] = {}
        for slot in self.slots:
            self.seed_buffer("average", slot, "exp_avg")

    @property
    @override
    def why_not_exact(self) -> str:
        return (
            "steps along a sign, whose derivative is zero almost everywhere, so that no label "
            "would matter at all"
        )

    @override
    def before_update(self) -> None:
        follows_theta_alone = self.columns == self.affine_columns
        for slot in self.slots:
            # Columns that are θ itself have its average; roundings must not turn a sign there.
            if follows_theta_alone or not self.optimizer.state.get(slot.parameter):
                self.seed_buffer("average", slot, "exp_avg")
            gradient, held = slot.parameter.grad, self.state_of(slot, "exp_avg")
            if gradient is None:
                continue
            G = self.layout.rows_of(slot.segment, gradient.detach())
            M = torch.zeros_like(G) if held is None else held
            C = _mixed(M, G, self.optimizer.param_groups[slot.group]).abs_()
            self._scale[slot.segment.name] = torch.where(C > 0, 1 / C, 0.0)

    @override
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        for slot, group in self.active(skipped):
            G, A = gradient[slot.segment.rows], path[slot.segment.rows]
            M = self.buffer("average", slot)
            assert M is not None
            rate = float(group["lr"])
            A.mul_(1 - rate * self._decay(group))
            scale = self._scale[slot.segment.name][:, None]
            A.addcmul_(_mixed(M, G, group), scale, value=-rate)
            beta2 = float(group["betas"][1])
            M.mul_(beta2).add_(G, alpha=1 - beta2)

    @override
    def preconditioner(self) -> None:
        raise UnsupportedOptimizerError(
            "kernel norms are not measured for Lion, which does not keep the average that it has "
            "stepped along; leave kernel_norms at False"
        )

    def _decay(self, group: dict[str, Any]) -> float:
        """λ, given for a rate of one where the optimizer says that it is decoupled from it."""
        decay = float(group["weight_decay"])
        if getattr(self.optimizer, "decoupled_wd", False):
            return decay / float(getattr(self.optimizer, "_init_lr", 1.0))
        return decay


def _mixed(M: Tensor, G: Tensor, group: dict[str, Any]) -> Tensor:
    beta1 = float(group["betas"][0])
    return (M * beta1).add_(G, alpha=1 - beta1)
