"""Rules whose steps are divided by something that depends on gradients, held fixed or followed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.update_rules.base import DecayingRule, Slot


class DividingRule(DecayingRule):
    """Rules with denominators ``φ(v)``, where v averages squares of gradients.

    The model holds φ at the value that the optimizer used.  Followed, columns of v are carried,
    too, and ``−ΔA`` gains ``−u φ′/φ² · δv`` where the step itself is along ``u/φ``
    (docs/mathematics.md, section 13).
    """

    _follows: bool = False
    _gradient: Tensor | None = None
    _theta: Tensor | None = None

    @override
    def follow_denominators(self) -> None:
        self._follows = True

    @override
    def look_at(self, gradient: Tensor) -> None:
        self._gradient = gradient.clone()
        by_name = {slot.segment.name: slot.parameter for slot in self.slots}
        self._theta = self.layout.flatten({name: by_name[name] for name in self.layout.by_name})

    @property
    @override
    def denominator_columns(self) -> int:
        groups = self.optimizer.param_groups
        return 2 if any(g.get("amsgrad") or g.get("centered") for g in groups) else 1

    @property
    def follows(self) -> bool:
        """Whether columns of the denominators are carried."""
        return self._follows

    def used(self, slot: Slot, group: dict[str, Any]) -> Tensor:
        """The gradient that the optimizer averaged: ``±G``, with coupled decay ``+ λθ``."""
        assert self._gradient is not None
        assert self._theta is not None
        rows = slot.segment.rows
        G = self.sign(group) * self._gradient[rows]
        decay = 0.0 if group.get("decoupled_weight_decay") else float(group["weight_decay"])
        return G.add_(self._theta[rows], alpha=decay) if decay else G

    def columns_of(self, name: str, slot: Slot) -> Tensor:
        """A buffer of columns, zero at first: what came before does not depend on labels."""
        held = self.buffer(name, slot)
        if held is None:
            held = self.seed_buffer(name, slot, "")
        return held


def slope_of_root(v: Tensor) -> Tensor:
    """``∂√v/∂v``; 0 where v is, since all that is divided there is zero, too."""
    return torch.where(v > 0, 0.5 / v.sqrt(), 0.0)
