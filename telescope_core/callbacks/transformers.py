"""The lens in the Trainer of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.callbacks._callback import LensCallback, takes_arguments_of
from telescope_core.callbacks._follower import Follower
from telescope_core.callbacks.indexed import INDEX_KEY
from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.network.checks import check_model

try:
    from transformers import TrainerCallback

    from telescope_core.callbacks._accelerate import (
        autocast_inside,
        inner_optimizer,
        without_mixed_precision,
    )
except ImportError as error:
    raise MissingDependencyError(
        "telescope_core.callbacks.transformers needs transformers and accelerate; "
        "`pip install 'telescope-lens[transformers]'`"
    ) from error


class ModelOutputs(nn.Module):
    """A model of transformers as a function from inputs to one tensor.

    An autocast that accelerate has put into the model's own forward (``bf16=True``) is left out;
    one around the call is not.

    Args:
        model: The model; its parameters are shared.
        key: The entry of its outputs to return.
    """

    def __init__(self, model: nn.Module, key: str = "logits") -> None:
        super().__init__()
        self.model = model
        self.key = key
        self.training = model.training

    def forward(self, **inputs: Tensor) -> Tensor:
        """The entry of the outputs, rows first."""
        with without_mixed_precision(self.model):
            outputs: Tensor = self.model(**inputs)[self.key]
        return outputs

    def announce(self, autocast: torch.autocast) -> None:
        """Let whoever watches the calls of this module see the autocast of a pass in training.

        The Trainer calls the model inside, and before a step of the lens begins.
        """
        with autocast:
            for hook in tuple(self._forward_pre_hooks.values()):
                hook(self, ())


class TelescopeCallback(LensCallback, TrainerCallback):
    """Attaches a lens to ``trainer.train`` and logs its records.

    The Trainer trains on :class:`telescope_core.callbacks.IndexedDataset` with
    ``remove_unused_columns=False``; the positions are taken out before the model sees them.  The
    Trainer puts the model into train mode, so its dropout has to be zero.

    Optimizer steps are followed with clipping by norm and with gradients accumulated over batches
    of equal size.  After resuming from a checkpoint the lens starts anew from there.

    Args:
        *arguments: Loss, inputs and targets of the training set, and further inputs by name, as
            described for the constructor.  The loss is what the model or the Trainer computes, e.g.
            ``nn.CrossEntropyLoss()`` for a model that classifies sequences; inputs are mappings of
            tensors, as the model takes them, without labels.
        output: The entry of the model's outputs that the loss takes.
        **options: Where records go and when, and what the lens measures; see the constructor.
    """

    @takes_arguments_of(Follower)
    def __init__(self, *arguments: Any, output: str = "logits", **options: Any) -> None:
        super().__init__(Follower(*arguments, **options))
        self._output = output
        self._show: Callable[[dict[str, float]], None] | None = None
        self._record: dict[str, float] | None = None
        self._hook: Any = None
        self._outputs: ModelOutputs | None = None

    def attach(self, trainer: Any) -> None:
        """Add the callback to a Trainer, whose log and reports then show the records, too.

        With ``Trainer(callbacks=[...])`` instead, records go to ``log_to`` alone: a callback does
        not know its Trainer.

        Raises:
            ConfigurationError: It trains in a way that cannot be followed.
        """
        _refuse(trainer.args, self._follower.has_smoother)
        trainer.add_callback(self)
        self._show = trainer.log

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        **_: Any,
    ) -> None:
        """Attach the lens.

        Raises:
            ConfigurationError: The Trainer trains in a way that cannot be followed.
        """
        _refuse(args, self._follower.has_smoother)
        # As the Trainer does before every batch, so that the lens sees the mode of training.
        model.train()
        if self._follower.has_smoother:
            # The Trainer calls the model before a step of the lens begins, so that passes cannot be
            # taken down to be run again.
            check_model(model)
        self._release()
        self._outputs = ModelOutputs(model, self._output)
        self._follower.attach(self._outputs, inner_optimizer(optimizer))
        self._hook = model.register_forward_pre_hook(self._take_index, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget positions that led to no step."""
        self._follower.forget()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin a step of the lens."""
        self._follower.begin()
        autocast = None if self._outputs is None else autocast_inside(self._outputs.model)
        if self._outputs is not None and autocast is not None:
            self._outputs.announce(autocast)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the step of the lens."""
        self._record = self._follower.end()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the record in the Trainer's log."""
        record, self._record = self._record, None
        if record is None or self._show is None:
            return
        # Logging marks the step as logged, and the Trainer's own losses would be left out.
        due = control.should_log
        self._show({name: value for name, value in record.items() if name != "step"})
        control.should_log = due

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the logging."""
        self._release()
        self._follower.close()

    def _take_index(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        index = kwargs.get(INDEX_KEY)
        if index is None:
            return None
        if model.training and torch.is_grad_enabled():
            self._follower.collect(index)
        return args, {name: value for name, value in kwargs.items() if name != INDEX_KEY}

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
            self._outputs = None


def _refuse(args: Any, has_smoother: bool) -> None:
    if args.remove_unused_columns:
        raise ConfigurationError(
            "remove_unused_columns=True drops the positions of the training rows; set it to False "
            "in TrainingArguments and give the Trainer only columns that the model takes"
        )
    if args.world_size != 1 or args.n_gpu > 1:
        processes = max(args.world_size, args.n_gpu)
        raise ConfigurationError(
            f"training runs on {processes} devices; the lens follows training on one: set "
            "CUDA_VISIBLE_DEVICES"
        )
    if has_smoother and args.fp16:
        raise ConfigurationError(
            "fp16=True skips steps when its scaled gradients overflow, which the smoother cannot "
            "follow; use bf16=True, or probes=None"
        )
