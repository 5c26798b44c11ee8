"""The lens in PyTorch Lightning."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from telescope_core.callbacks._callback import LensCallback, takes_arguments_of
from telescope_core.callbacks._follower import Follower
from telescope_core.callbacks.indexed import take_index
from telescope_core.errors import ConfigurationError, MissingDependencyError

try:
    # Both packages may be installed; a Trainer of the one wants callbacks of the same.
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback
        from pytorch_lightning.core.optimizer import LightningOptimizer
    else:
        from lightning.pytorch import Callback
        from lightning.pytorch.core.optimizer import LightningOptimizer
except ImportError:
    try:
        from pytorch_lightning import Callback
        from pytorch_lightning.core.optimizer import LightningOptimizer
    except ImportError as error:
        raise MissingDependencyError(
            "telescope_core.callbacks.lightning needs PyTorch Lightning; "
            "`pip install 'telescope-lens[lightning]'`"
        ) from error


class TelescopeCallback(LensCallback, Callback):
    """Attaches a lens to ``trainer.fit`` and logs its records.

    Give the Trainer a loader over :class:`telescope_core.callbacks.IndexedDataset`; the module gets
    its batches without the positions.  Records go to ``log_to`` and to the Trainer's loggers, and
    their newest values are among ``trainer.callback_metrics``.

    Automatic optimisation with one optimizer is followed, with clipping by norm and with gradients
    accumulated over batches of equal size.  The lens's state is kept in the Trainer's checkpoints.

    Args:
        *arguments: Loss (as ``training_step`` computes it), inputs and targets of the training set,
            and further inputs by name, as described for the constructor.
        network: Name of the submodule that maps inputs to outputs, e.g. ``"net"``; ``None`` for the
            module itself.
        **options: Where records go and when, and what the lens measures; see the constructor.
    """

    @takes_arguments_of(Follower)
    def __init__(self, *arguments: Any, network: str | None = None, **options: Any) -> None:
        super().__init__(Follower(*arguments, **options))
        self._network = network
        self._state: Mapping[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the lens.

        Raises:
            ConfigurationError: The Trainer trains in a way that cannot be followed.
        """
        _refuse(trainer, pl_module, self._follower.has_smoother)
        model = _network_of(pl_module, self._network)
        state, self._state = self._state, None
        convert = trainer.precision_plugin.convert_input
        self._follower.attach(model, _inner(trainer.optimizers[0]), state, convert)

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
    try:
        # The empty name is the module's own.
        network: nn.Module = module.get_submodule(name or "")
    except AttributeError as error:
        names = ", ".join(child for child, _ in module.named_children())
        raise ConfigurationError(
            f"network={name!r}, but {type(module).__name__} has no such submodule; it has {names}"
        ) from error
    return network


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer that takes the step; Lightning's own wrapper only hands over to it."""
    inner = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
    return cast(torch.optim.Optimizer, inner)


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
