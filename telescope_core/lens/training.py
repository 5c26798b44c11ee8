"""What a lens is told of training beside the model: the optimizer, the loss and the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from telescope_core.lens.run import Run
from telescope_core.lens.strategy import EngineFactory
from telescope_core.losses import Loss, check_scalar, leaves_of
from telescope_core.network.inputs import take_rows
from telescope_core.network.training_set import TrainingSet


@dataclass(frozen=True)
class Training:
    """A loss on a training set, and what minimises it.

    Attributes:
        optimizer: The optimizer; ``None`` where only predictions are followed.
        loss: ``loss(outputs, targets) -> scalar``.
        rows: The training set, with targets.
    """

    optimizer: torch.optim.Optimizer | None
    loss: Loss
    rows: TrainingSet

    def begin(self, run: Run) -> None:
        """Refuse a loss that is no scalar of outputs and targets; begin the smoother of a run.

        Raises:
            ConfigurationError: Something outside of the model is trained along.
            LossError: The loss is not a differentiable scalar.
        """  # what it calls raises
        targets = self.rows.targets
        assert targets is not None
        function = run.linearizer.function
        # Rows that depend on each other have outputs together only.
        f = self._outputs(run, slice(None) if run.sight.is_coupled else slice(0, 8))
        f = f.reshape(len(f), *function.output_shape)
        y = targets[: len(f)].clone()
        if run.settings.probes is None or self.optimizer is None:
            check_scalar(self.loss, f.to(function.own_precision), y)
            return
        run.trained.require_alone(self.loss, leaves_of(self.loss, f, y))
        replay = run.sight.replay(run.trained.by_name, self.optimizer)
        initial = run.track.f_0
        on_train = initial["train"] if "train" in initial else self._outputs(run, slice(None))
        engines = EngineFactory(
            *(run.settings, function, self.optimizer, self.loss, self.rows),
            *(on_train, initial, replay),
        )
        run.carry_smoother(engines)

    def _outputs(self, run: Run, rows: slice) -> Tensor:
        theta = run.track.theta_0
        return run.linearizer.outputs(theta, take_rows(self.rows.inputs, rows, theta.device))
