"""The lens in the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn

from telescope_core.callbacks._callback import LensCallback, takes_arguments_of
from telescope_core.callbacks._follower import Follower
from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.network import own_streams
from telescope_core.network.checks import check_model
from telescope_core.network.indexed import INDEX_KEY
from telescope_core.network.outputs import Output, check_output
from telescope_core.network.samples import spaced_batch
from telescope_core.network.streams import in_own_pass
from telescope_core.update_rules import inner_optimizer

try:
    from transformers import Trainer, TrainerCallback

    from telescope_core.callbacks._accelerate import ModelOutputs, autocast_inside, model_inputs
except ImportError as error:
    raise MissingDependencyError(
        "telescope_core.callbacks.transformers needs transformers and accelerate; "
        "`pip install 'telescope-lens[transformers]'`"
    ) from error


class TelescopeCallback(LensCallback, TrainerCallback):
    """Attaches a lens to ``trainer.train`` and logs its records.

    ``Trainer(..., callbacks=[TelescopeCallback()])`` follows predictions on a sample of the
    Trainer's evaluation set, in evaluation mode: dropout, mixed precision, any optimizer, columns
    that are removed and accumulated gradients stay as they are.  Without an evaluation set it is
    the first batch of training that predictions are followed on.

    With a smoother the Trainer trains on :class:`telescope_core.callbacks.IndexedDataset` with
    ``remove_unused_columns=False``; the positions are taken out before the model sees them.  The
    Trainer puts the model into train mode, so its dropout has to be zero then, and gradients are
    accumulated over batches of equal size.

    Records go to the Trainer's log and reports.  After resuming from a checkpoint the lens starts
    anew from there.

    Args:
        *arguments: For a smoother loss, inputs and targets of the training set, and further inputs
            by name, as described for the constructor.  The loss is what the model or the Trainer
            computes, e.g. ``nn.CrossEntropyLoss()`` for a model that classifies sequences; inputs
            are mappings of tensors, as the model takes them, without labels.
        output: Which of the model's outputs are followed: a name, a position, or what picks them.
        **options: Where records go and when, and what the lens measures; see the constructor.
    """

    @takes_arguments_of(Follower)
    def __init__(self, *arguments: Any, output: Output = "logits", **options: Any) -> None:
        super().__init__(Follower(*arguments, **options))
        check_output(output)
        self._output = output
        self._trainer: Any = None
        self._record: dict[str, float] | None = None
        self._hook: Any = None
        self._outputs: ModelOutputs | None = None
        self._waiting: Callable[[Mapping[str, Any]], None] | None = None

    def attach(self, trainer: Any) -> None:
        """Add the callback to a Trainer, which ``Trainer(callbacks=[...])`` does as well.

        Raises:
            ConfigurationError: It trains in a way that cannot be followed.
        """
        _refuse(trainer.args, self._follower.looks_into_steps)
        trainer.add_callback(self)

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
        _refuse(args, self._follower.looks_into_steps)
        self._trainer = _trainer_of(self)
        self._release()
        self._hook = model.register_forward_pre_hook(self._look, with_kwargs=True)
        if not self._follower.looks_into_steps:
            sets = _evaluation_sets(self._trainer, self._follower.rows_of_a_found_set)
            if sets or not self._follower.finds_sets:
                self._follow(model, optimizer, sets)
            else:
                self._waiting = lambda batch: self._follow(model, optimizer, {"first_batch": batch})
            return
        # As the Trainer does before every batch, so that the lens sees the mode of training.
        model.train()
        # The Trainer calls the model before a step of the lens begins, so that passes cannot be
        # taken down to be run again.
        check_model(model)
        self._follow(model, optimizer)

    def _follow(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._outputs = ModelOutputs(model, self._output)
        found = None
        if batches and self._follower.finds_sets:
            found = {name: model_inputs(self._outputs, batch) for name, batch in batches.items()}
        self._follower.attach(self._outputs, [inner_optimizer(optimizer)], found=found)

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
        self._show(record, control)

    def _show(self, record: Mapping[str, float] | None, control: Any) -> None:
        if record is None or self._trainer is None:
            return
        # Logging marks the step as logged, and the Trainer's own losses would be left out.
        due = control.should_log
        self._trainer.log({name: value for name, value in record.items() if name != "step"})
        control.should_log = due

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show a last record and end the logging."""
        self._release()
        self._show(self._follower.finish(), control)
        self._follower.close()

    def _look(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """See a batch before the model does, and take the positions out of it."""
        if in_own_pass():
            return None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting(kwargs)
        index = kwargs.get(INDEX_KEY)
        if index is None:
            return None
        if model.training and torch.is_grad_enabled():
            self._follower.collect(index)
        return args, {name: value for name, value in kwargs.items() if name != INDEX_KEY}

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._hook = self._outputs = self._waiting = None


def _trainer_of(callback: TrainerCallback) -> Any:
    """The Trainer that calls a callback, which is not told of it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
        frame = frame.f_back
    return None


def _evaluation_sets(trainer: Any, rows: int) -> dict[str, Mapping[str, Any]]:
    """A batch of every evaluation set that a Trainer has, as the model gets it, by name."""
    sets = getattr(trainer, "eval_dataset", None)
    if sets is None:
        return {}
    named = sets if isinstance(sets, dict) else {"eval": sets}
    with own_streams():
        return {
            str(name).replace("/", "_"): spaced_batch(trainer.get_eval_dataloader(dataset), rows)
            for name, dataset in named.items()
        }


def _refuse(args: Any, looks_into_steps: bool) -> None:
    if not looks_into_steps and args.n_gpu <= 1:
        return
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
    if looks_into_steps and args.fp16:
        raise ConfigurationError(
            "fp16=True skips steps when its scaled gradients overflow, which the smoother cannot "
            "follow; use bf16=True, or probes=None"
        )
