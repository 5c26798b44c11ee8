"""What a smoother is carried for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from telescope_core.jacobians import Layers, Linearizer, RowSet
from telescope_core.losses import LossGradient
from telescope_core.network.layout import ParameterLayout
from telescope_core.network.outputs import Output
from telescope_core.network.passes import PassRecorder
from telescope_core.network.replicas import Replicas
from telescope_core.probes import Directions, LabelDirections
from telescope_core.smoother.path import Quadrature
from telescope_core.update_rules import UpdateRule

Curvature = Literal["gauss-newton", "full"]
"""Without or with the second derivative of the network."""


@dataclass(frozen=True)
class Replay:
    """The model as training runs it.

    Attributes:
        model: The model.
        output: Which of the things that it returns are its outputs.
        linearizer: Its outputs in evaluation mode as a function of z.
        sets: The sets seen through that.
        recorder: Takes down the passes of training.
        curvature: Whether the network's own curvature is followed.
        replicas: Other processes that train the same model.
    """

    model: nn.Module
    output: Output
    linearizer: Linearizer
    sets: Mapping[str, RowSet]
    recorder: PassRecorder
    curvature: Curvature
    replicas: Replicas | None = None


@dataclass(frozen=True)
class Problem:
    """Everything that engines are made from, beside the label directions.

    Attributes:
        labels: Stored labels Y, shape ``(n, label_width)``; of the sample where training rows are
            streamed.
        n: Training points.
        loss: The loss gradient.
        initial: Per set, the outputs ``f_{θ_0}``, shape ``(rows, k)``.
        theta: ``θ_0``, shape ``(p,)``.
        layout: Order of the trained parameters.
        eps: Rounding of the precision that these are trained in.
        make_rule: Builds the optimizer's rule for a number of columns, the last so many of which
            follow the parameters themselves.
        quadrature: What stands for the Jacobian of a block.
        layers: To follow what the parameters of each layer contribute; ``None`` not to.
        replay: The model as training runs it, where it is another function than in evaluation.
        is_streamed: Whether nothing of the size of the training set is kept.
        sample: Positions of the rows of "train" where they are some of a stream's; ``None`` where
            they are all rows, or not known.
    """

    labels: Tensor
    n: int
    loss: LossGradient
    initial: Mapping[str, Tensor]
    theta: Tensor
    layout: ParameterLayout
    eps: float
    make_rule: Callable[[int, int], UpdateRule]
    quadrature: Quadrature
    layers: Layers | None = None
    replay: Replay | None = None
    is_streamed: bool = False
    sample: Tensor | None = None

    @property
    def kept_labels(self) -> int:
        """Labels for which directions are kept."""
        return 0 if self.is_streamed else self.labels.numel()

    def on_train(self, directions: Directions) -> Tensor | None:
        """V on the rows of "train", ``(rows, label_width, m)``; ``None`` if they are not known."""
        if isinstance(directions, LabelDirections):
            return directions.basis
        return None if self.sample is None else directions.rows(self.sample)

    @property
    def affine_columns(self) -> int:
        """2 for quadratic losses (c and S·Y + c), 0 otherwise."""
        return 2 if self.loss.is_quadratic and self.replay is None else 0

    @property
    def outputs(self) -> int:
        """Outputs of all rows of all sets."""
        return sum(f.numel() for f in self.initial.values())
