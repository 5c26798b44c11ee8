"""What a smoother is carried for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from telescope_core.jacobians import Layers
from telescope_core.losses import LossGradient
from telescope_core.network.layout import ParameterLayout
from telescope_core.smoother.path import Quadrature
from telescope_core.update_rules import UpdateRule


@dataclass(frozen=True)
class Problem:
    """Everything that engines are made from, beside the label directions.

    Attributes:
        labels: Stored labels Y, shape ``(n, label_width)``.
        loss: The loss gradient.
        initial: Per set, the outputs ``f_{θ_0}``, shape ``(rows, k)``.
        theta: ``θ_0``, shape ``(p,)``.
        layout: Order of the trained parameters.
        eps: Rounding of the precision that these are trained in.
        make_rule: Builds the optimizer's rule for a number of columns, the last so many of which
            follow the parameters themselves.
        quadrature: What stands for the Jacobian of a block.
        layers: To follow what the parameters of each layer contribute; ``None`` not to.
    """

    labels: Tensor
    loss: LossGradient
    initial: Mapping[str, Tensor]
    theta: Tensor
    layout: ParameterLayout
    eps: float
    make_rule: Callable[[int, int], UpdateRule]
    quadrature: Quadrature
    layers: Layers | None = None

    @property
    def affine_columns(self) -> int:
        """2 for quadratic losses (c and S·Y + c), 0 otherwise."""
        return 2 if self.loss.is_quadratic else 0

    @property
    def outputs(self) -> int:
        """Outputs of all rows of all sets."""
        return sum(f.numel() for f in self.initial.values())
