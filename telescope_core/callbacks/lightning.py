"""The lens in PyTorch Lightning."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from telescope_core.callbacks._callback import LensCallback, takes_arguments_of
from telescope_core.callbacks._follower import Follower
from telescope_core.callbacks._lightning_network import outputs_for
from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.network import own_streams
from telescope_core.network.indexed import has_index, take_index
from telescope_core.network.outputs import Output
from telescope_core.network.samples import spaced_batch
from telescope_core.update_rules import inner_optimizer

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


class TelescopeCallback(LensCallback, Callback):
    """Attaches a lens to ``trainer.fit`` and logs its records.

    ``Trainer(callbacks=[TelescopeCallback()])`` follows predictions on a sample of the Trainer's
    validation sets, in evaluation mode; the module, its loaders, dropout, batch statistics, mixed
    precision, accumulation, several optimizers and manual optimisation stay as they are.  Without a
    validation set it is the first batch of training that predictions are followed on.  What a
    module predicts is what its ``predict_step`` or ``forward`` makes of a batch, or else the last
    thing that one of its submodules gives in its step.

    With a smoother, give the Trainer a loader over
    :class:`telescope_core.callbacks.IndexedDataset`; the module gets its batches without the
    positions.  Automatic optimisation with one optimizer is followed then, with clipping by norm
    and with gradients accumulated over batches of equal size.

    Records go to ``log_to`` and to the Trainer's loggers, and their newest values are among
    ``trainer.callback_metrics``.  The lens's state is kept in the Trainer's checkpoints.

    Args:
        *arguments: For a smoother loss (as ``training_step`` computes it), inputs and targets of
            the training set, and further inputs by name, as described for the constructor.
        network: Name of the submodule that maps inputs to outputs, e.g. ``"net"``; ``None`` for the
            module itself.
        **options: Where records go and when, and what the lens measures; see the constructor.
    """

    @takes_arguments_of(Follower)
    def __init__(self, *arguments: Any, network: str | None = None, **options: Any) -> None:
        super().__init__(Follower(*arguments, **options))
        self._network = network
        self._output: Output = options.get("output")
        self._state: Mapping[str, Any] | None = None
        self._waits = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the lens.

        Raises:
            ConfigurationError: The Trainer trains in a way that cannot be followed.
        """
        if self._follower.looks_into_steps:
            _refuse(trainer, pl_module)
        batches = {}
        if self._follower.finds_sets:
            batches = _validation_batches(trainer, self._follower.rows_of_a_found_set)
            self._waits = not batches
        if not self._waits:
            self._attach(trainer, pl_module, batches, "validation_step")

    def _attach(self, trainer: Any, module: Any, batches: Mapping[str, Any], step: str) -> None:
        network = _network_of(module, self._network)
        state, self._state = self._state, None
        optimizers = [inner_optimizer(optimizer) for optimizer in trainer.optimizers]
        if not batches:
            convert = trainer.precision_plugin.convert_input
            self._follower.attach(network, optimizers, state, convert)
            return
        seen = {n: outputs_for(network, b, step, self._output) for n, b in batches.items()}
        follows = next(iter(seen.values()))[0]
        rows = {name: leaves for name, (_, leaves) in seen.items()}
        self._follower.attach(follows, optimizers, state, found=rows, output=None)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the positions out of the batch; begin a step of the lens if it leads to one."""
        if self._waits:
            self._waits = False
            rows = self._follower.rows_of_a_found_set
            first = {"first_batch": tree_map(lambda leaf: _first(leaf, rows), batch)}
            self._attach(trainer, pl_module, first, "training_step")
        if not self._follower.looks_into_steps:
            if has_index(batch):
                take_index(batch)
            return
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
        if record is not None:
            # Through the module, loggers would see only what falls on a multiple of
            # log_every_n_steps.
            values = _shown(trainer, record)
            pl_module.log_dict(values, logger=False, on_step=True, on_epoch=False)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Show a last record and end the logging."""
        record = self._follower.finish()
        if record is not None:
            _shown(trainer, record)
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


def _validation_batches(trainer: Any, rows: int) -> dict[str, Any]:
    """A batch of every validation set, as the module gets it, by name."""
    loaders = trainer.val_dataloaders
    named: Mapping[str, Any]
    if loaders is None or isinstance(loaders, list | tuple):
        several = list(loaders or [])
        named = {"val" if len(several) == 1 else f"val_{i}": it for i, it in enumerate(several)}
    else:
        named = loaders if isinstance(loaders, Mapping) else {"val": loaders}
    batches = {}
    with own_streams():
        for name, loader in named.items():
            batch = trainer.precision_plugin.convert_input(spaced_batch(loader, rows))
            batch = trainer.strategy.batch_to_device(batch)
            batches[str(name).replace("/", "_")] = tree_map(lambda leaf: _first(leaf, rows), batch)
    return batches


def _first(leaf: Any, rows: int) -> Any:
    return leaf[:rows].detach().clone() if isinstance(leaf, Tensor) and leaf.ndim else leaf


def _shown(trainer: Any, record: Mapping[str, float]) -> dict[str, float]:
    """Show a record to the Trainer's loggers."""
    values = {name: value for name, value in record.items() if name != "step"}
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step)
    return values


def _refuse(trainer: Any, module: Any) -> None:
    if not module.automatic_optimization:
        raise ConfigurationError(
            f"{type(module).__name__} optimises manually, so the callback cannot tell its steps; "
            "wrap them yourself in TelescopeLens.step(), or use probes=None"
        )
    if len(trainer.optimizers) != 1:
        raise ConfigurationError(
            f"{len(trainer.optimizers)} optimizers are in use; the smoother follows one: use "
            "probes=None"
        )
    if trainer.world_size != 1:
        raise ConfigurationError(
            f"training runs in {trainer.world_size} processes; the smoother follows training in "
            "one: use devices=1, or probes=None"
        )
    if trainer.gradient_clip_val and trainer.gradient_clip_algorithm == "value":
        raise ConfigurationError(
            "gradients are clipped by value, which the smoother cannot follow; clip by norm "
            "(gradient_clip_algorithm='norm'), or use probes=None"
        )
