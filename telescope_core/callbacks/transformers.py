"""The lens in the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.callbacks._callback import LensCallback, takes_arguments_of
from telescope_core.callbacks._follower import Follower
from telescope_core.errors import ConfigurationError, MissingDependencyError
from telescope_core.losses import Loss, resolved
from telescope_core.losses.own import StandardLoss
from telescope_core.network import own_streams
from telescope_core.network.indexed import INDEX_KEY, IndexedCollator, IndexedDataset
from telescope_core.network.outputs import Output, check_output
from telescope_core.network.samples import ROWS_OF_A_LOADER, TARGETS, spaced_batch
from telescope_core.network.streams import in_own_pass
from telescope_core.update_rules import inner_optimizer

try:
    from transformers import Trainer, TrainerCallback

    from telescope_core.callbacks._accelerate import (
        ModelOutputs,
        model_inputs,
        without_mixed_precision,
    )
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

    ``TelescopeCallback(probes=64)`` adds the smoother, through dropout as it is.  The training set
    is then wrapped in :class:`telescope_core.callbacks.IndexedDataset`, whose positions are taken
    out before the model sees them, and its rows are collated once as a whole; of more than 1000 a
    sample is followed, and none are kept.  The loss is the model's own, as far as it is a standard
    one, with the label smoothing of the Trainer.  Loss, inputs and targets may be given instead.

    Records go to the Trainer's log and reports.  After resuming from a checkpoint the lens starts
    anew from there.

    Args:
        *arguments: Loss, inputs and targets of the training set, and further inputs by name, as
            described for the constructor, in place of those that the Trainer has.  The loss is what
            the model or the Trainer computes, e.g. ``nn.CrossEntropyLoss()`` for a model that
            classifies sequences; inputs are mappings of tensors, as the model takes them, without
            labels.
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
        self._handles: list[Any] = []
        self._outputs: ModelOutputs | None = None
        self._waiting: Callable[[Mapping[str, Any]], object] | None = None

    def attach(self, trainer: Any) -> None:
        """Add the callback to a Trainer, which ``Trainer(callbacks=[...])`` does as well.

        Raises:
            ConfigurationError: It trains in a way that cannot be followed.
        """
        _refuse(trainer.args, self._follower.looks_into_steps)
        trainer.add_callback(self)
        self._number_rows(trainer)

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let rows of the training set say where they are, if a smoother needs it."""
        self._number_rows(_trainer_of(self))

    def _number_rows(self, trainer: Any) -> None:
        if trainer is None or not self._follower.looks_into_steps:
            return
        rows = trainer.train_dataset
        if hasattr(rows, "__getitem__") and not isinstance(rows, IndexedDataset):
            trainer.train_dataset = IndexedDataset(rows)
        if not isinstance(trainer.data_collator, IndexedCollator):
            trainer.data_collator = IndexedCollator(trainer.data_collator)
        # Columns that the model does not take are removed, and it does not take the positions.
        trainer._set_signature_columns_if_needed()
        if INDEX_KEY not in trainer._signature_columns:
            trainer._signature_columns = [*trainer._signature_columns, INDEX_KEY]

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
        self._handles = [model.register_forward_pre_hook(self._look, with_kwargs=True)]
        sets = {}
        if self._follower.finds_sets:
            sets = _evaluation_sets(self._trainer, self._follower.rows_of_a_found_set)
        if self._follower.looks_into_steps:
            # As the Trainer does before every batch, so that the lens sees the mode of training.
            model.train()
            self._handles += self._follow(model, optimizer, sets).listen()
        elif sets or not self._follower.finds_sets:
            self._follow(model, optimizer, sets)
        else:
            self._waiting = lambda batch: self._follow(model, optimizer, {"first_batch": batch})

    def _follow(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, sets: Mapping[str, Any]
    ) -> ModelOutputs:
        outputs = self._outputs = ModelOutputs(model, self._output)
        training = None
        if self._follower.looks_into_steps and not self._follower.knows_training:
            training = self._training_of(outputs)
        self._follower.attach(
            outputs,
            [inner_optimizer(optimizer)],
            found={name: model_inputs(outputs, batch) for name, batch in sets.items()},
            training=training,
            output=None,
        )
        return outputs

    def _training_of(self, outputs: ModelOutputs) -> tuple[Loss, Any, Tensor | None]:
        """The Trainer's loss, and its training set with labels: as a loader if it is large."""
        trainer = self._trainer
        if trainer is None or not hasattr(trainer.train_dataset, "__len__"):
            raise ConfigurationError(
                "the Trainer has no training set of a known length; pass loss, train_inputs and "
                "train_targets to the callback, or use probes=None"
            )
        with own_streams():
            # Collated as for training, rows in their order.
            loader = trainer.get_eval_dataloader(trainer.train_dataset)
        n = len(trainer.train_dataset)
        batch = dict(spaced_batch(loader, min(n, ROWS_OF_A_LOADER)))
        with without_mixed_precision(outputs.model):
            inputs = model_inputs(outputs, batch, keep_targets=True)
            loss, targets = resolved("loss", outputs.model, self._output, inputs, None)
        assert isinstance(loss, StandardLoss)
        assert targets is not None
        if trainer.args.label_smoothing_factor:
            loss = loss.smoothed(trainer.args.label_smoothing_factor)
        if n > ROWS_OF_A_LOADER:
            return loss, loader, None
        return loss, model_inputs(outputs, batch), targets

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget positions that led to no step."""
        self._follower.forget()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin a step of the lens."""
        self._follower.begin()
        if self._outputs is not None and self._follower.looks_into_steps:
            self._outputs.announce()

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
        is_training = model.training and torch.is_grad_enabled() and not in_own_pass()
        waiting, self._waiting = self._waiting, self._waiting if not is_training else None
        if waiting is not None and is_training:
            waiting(kwargs)
        index = kwargs.get(INDEX_KEY)
        if index is None:
            return None
        if is_training:
            targets = next((kwargs[name] for name in TARGETS if name in kwargs), None)
            self._follower.collect(index, targets)
        return args, {name: value for name, value in kwargs.items() if name != INDEX_KEY}

    def _release(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._outputs = self._waiting = None


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
    processes = max(args.world_size if looks_into_steps else 1, args.n_gpu)
    if processes > 1:
        raise ConfigurationError(
            f"training runs on {processes} devices; the lens follows training on one: set "
            "CUDA_VISIBLE_DEVICES"
        )
