"""The lens in PyTorch Lightning."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from telescope_core.alerts import AlertRule
from telescope_core.callbacks._follower import Follower
from telescope_core.callbacks.indexed import take_index
from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.inputs import Inputs
from telescope_core.labels import Loss
from telescope_core.lens import TelescopeLens
from telescope_core.live import Target
from telescope_core.trackers.protocol import RunDescription

try:
    # Both packages may be installed; a Trainer of the one wants callbacks of the same.
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingDependencyError(
            "telescope_core.callbacks.lightning needs PyTorch Lightning; "
            "`pip install 'telescope-lens[lightning]'`"
        ) from error


class TelescopeCallback(Callback):
    """Attaches a lens to ``trainer.fit`` and logs its records.

    Give the Trainer a loader over :class:`telescope_core.callbacks.IndexedDataset`; the module gets
    its batches without the positions.  Records go to ``log_to`` and to the Trainer's loggers, and
    their newest values are among ``trainer.callback_metrics``.

    Automatic optimisation with one optimizer is followed, with clipping by norm and with gradients
    accumulated over batches of equal size.  The lens's state is kept in the Trainer's checkpoints.

    Args:
        loss: ``loss(outputs, targets) -> scalar``, as ``training_step`` computes it.
        train_inputs: Rows of the training set, in the order of the dataset.
        train_targets: Their targets.
        eval_sets: More inputs by name.
        network: Name of the submodule that maps inputs to outputs, e.g. ``"net"``; ``None`` for the
            module itself.
        log_to: Where records go besides; see :meth:`telescope_core.TelescopeLens.log_to`.
        description: The run to start, if ``log_to`` is a tracker.
        every: Optimizer steps from one record to the next; ``None`` for the ends of blocks.
        alerts: What to call for attention for.
        **options: Further arguments of :class:`telescope_core.TelescopeLens`.
    """

    def __init__(
        self,
        loss: Loss,
        train_inputs: Inputs,
        train_targets: Tensor,
        eval_sets: Mapping[str, Inputs] | None = None,
        *,
        network: str | None = None,
        log_to: Target | None = None,
        description: RunDescription | None = None,
        every: int | None = None,
        alerts: Sequence[AlertRule] = (),
        **options: Any,
    ) -> None:
        super().__init__()
        self._network = network
        self._state: Mapping[str, Any] | None = None
        self._follower = Follower(
            loss,
            train_inputs,
            train_targets,
            eval_sets,
            log_to=log_to,
            description=description,
            every=every,
            alerts=alerts,
            options=options,
        )

    @property
    def lens(self) -> TelescopeLens:
        """The lens, from the start of training on; also afterwards.

        Raises:
            ConfigurationError: Training has not started yet.
        """
        return self._follower.lens

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the lens.

        Raises:
            ConfigurationError: The Trainer trains in a way that cannot be followed.
        """
        _refuse(trainer, pl_module, self._follower.has_smoother)
        model = _network_of(pl_module, self._network)
        state, self._state = self._state, None
        self._follower.attach(model, trainer.optimizers[0], state)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the positions out of the batch; begin a step of the lens if it leads to one."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._follower.forget()
        self._follower.collect(take_index(batch))
        complete = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        last = trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches
        if complete or last:
            self._follower.begin()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the step of the lens and show its record to the Trainer's loggers."""
        record = self._follower.end()
        if record is None:
            return
        values = {name: value for name, value in record.items() if name != "step"}
        # Through the module, loggers would see only what falls on a multiple of log_every_n_steps.
        pl_module.log_dict(values, logger=False, on_step=True, on_epoch=False)
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End the logging."""
        self._follower.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the step that failed."""
        self._follower.abandon(exception)

    def state_dict(self) -> dict[str, Any]:
        """The lens's state, for the Trainer's checkpoint."""
        try:
            return self.lens.state_dict()
        except ConfigurationError:
            return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint when training starts."""
        self._state = state_dict or None


def _network_of(module: Any, name: str | None) -> nn.Module:
    if name is None:
        own: nn.Module = module
        return own
    try:
        network: nn.Module = module.get_submodule(name)
    except AttributeError as error:
        names = ", ".join(child for child, _ in module.named_children())
        raise ConfigurationError(
            f"network={name!r}, but {type(module).__name__} has no such submodule; it has {names}"
        ) from error
    return network


def _refuse(trainer: Any, module: Any, has_smoother: bool) -> None:
    if not module.automatic_optimization:
        raise ConfigurationError(
            f"{type(module).__name__} optimises manually, so the callback cannot tell its steps; "
            "wrap them yourself in TelescopeLens.step()"
        )
    if len(trainer.optimizers) != 1:
        raise ConfigurationError(
            f"{len(trainer.optimizers)} optimizers are in use; the lens follows one"
        )
    if trainer.world_size != 1:
        raise ConfigurationError(
            f"training runs in {trainer.world_size} processes; the lens follows training in one: "
            "use devices=1"
        )
    if not has_smoother:
        return
    if trainer.gradient_clip_val and trainer.gradient_clip_algorithm == "value":
        raise ConfigurationError(
            "gradients are clipped by value, which the smoother cannot follow; clip by norm "
            "(gradient_clip_algorithm='norm'), or use probes=None"
        )
    if trainer.precision == "16-mixed":
        raise ConfigurationError(
            "precision='16-mixed' skips steps when its scaled gradients overflow, which the "
            "smoother cannot follow; use 'bf16-mixed' or '32-true', or probes=None"
        )
