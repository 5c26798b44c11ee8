"""What all callbacks share: a lens that is attached late and told of steps by hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from telescope_core.arguments import check_integer
from telescope_core.errors import ConfigurationError
from telescope_core.lens import TelescopeLens
from telescope_core.live import LiveLog, Target
from telescope_core.live.alerts import AlertRule
from telescope_core.losses import Loss
from telescope_core.network import Network
from telescope_core.network.inputs import (
    Inputs,
    Rows,
    count_rows,
    is_in_memory,
    map_rows,
    take_rows,
)
from telescope_core.network.samples import Source, is_loader
from telescope_core.trackers.null import NullRun
from telescope_core.trackers.protocol import RunDescription

EVAL_ROWS = 100
"""Rows that are followed of a set that the framework has, if nobody says."""
# A language model has millions of outputs a row.
_MOST_OUTPUTS = 2**22


class Follower:
    """Follows a training run whose model and optimizer are only known once it starts.

    Without arguments predictions are followed, on a sample of the framework's own evaluation set
    or else on the first batch of training.  Loss, training inputs and targets add a smoother, or
    ``probes`` alone where the framework has them all.

    Args:
        loss: ``loss(outputs, targets) -> scalar``, as training computes it.
        train_inputs: Rows of the training set, in the order of the dataset, on any device.
        train_targets: Their targets, on any device.
        eval_sets: More inputs by name, on any device.
        eval_rows: Rows of each evaluation set, evenly spaced; ``None`` for all of those given here,
            and 100 of one that the framework has (fewer where a row has more than 40,000 outputs).
        log_to: Where records go besides; see :meth:`telescope_core.TelescopeLens.log_to`.
        description: The run to start, if ``log_to`` is a tracker.
        every: Optimizer steps from one record to the next; ``None`` for what
            :meth:`telescope_core.TelescopeLens.log_to` takes.
        alerts: What to call for attention for.
        **options: Further arguments of :class:`telescope_core.TelescopeLens`.
    """

    def __init__(
        self,
        loss: Loss | None = None,
        train_inputs: Inputs | None = None,
        train_targets: Tensor | None = None,
        eval_sets: Mapping[str, Source] | None = None,
        *,
        eval_rows: int | None = None,
        log_to: Target | None = None,
        description: RunDescription | None = None,
        every: int | None = None,
        alerts: Sequence[AlertRule] = (),
        **options: Any,
    ) -> None:
        if eval_rows is not None:
            check_integer("eval_rows", eval_rows, 1, "rows of each evaluation set")
        self._loss = loss
        self._inputs: dict[str, Source] = dict(eval_sets or {})
        if train_inputs is not None:
            self._inputs["train"] = train_inputs
        self._targets = train_targets
        self._eval_rows = eval_rows
        self._target = log_to
        self._description = description
        self._every = every
        self._alerts = alerts
        self._options = options
        self._lens: TelescopeLens | None = None
        self._log: LiveLog | None = None
        self._optimizers: Sequence[torch.optim.Optimizer] = ()
        self._hooks = ExitStack()
        self._micro_batches: list[Tensor] = []
        self._targets_seen: list[Tensor] = []
        self._is_streamed = False
        self._step: ExitStack | None = None
        self._stepped = False

    @property
    def lens(self) -> TelescopeLens:
        """The lens.

        Raises:
            ConfigurationError: Training has not started yet.
        """
        if self._lens is None:
            raise ConfigurationError("there is no lens before training has started; fit first")
        return self._lens

    @property
    def looks_into_steps(self) -> bool:
        """Whether batches and gradients have to be those of the loss, for a smoother."""
        given = self._loss is not None and "train" in self._inputs and self._targets is not None
        default = 0 if given else None
        return self._options.get("probes", default) is not None or bool(
            self._options.get("kernel_norms")
        )

    @property
    def knows_training(self) -> bool:
        """Whether any of loss, training inputs and targets was given."""
        return not (self._loss is None and self._targets is None and "train" not in self._inputs)

    @property
    def finds_sets(self) -> bool:
        """Whether the sets to follow are those that the framework has."""
        return not self._inputs

    @property
    def rows_of_a_found_set(self) -> int:
        """How many rows of it are followed at most."""
        return self._eval_rows or EVAL_ROWS

    def attach(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        state: Mapping[str, Any] | None = None,
        convert: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        found: Mapping[str, Rows] | None = None,
        training: tuple[Loss, Source, Tensor | None] | None = None,
        **changed: Any,
    ) -> None:
        """Attach a new lens, in the mode the model is trained in.

        Args:
            model: What maps inputs to outputs.
            optimizers: The torch optimizers themselves.
            state: From the lens's ``state_dict``, to go on from there.
            convert: What the framework does to the tensors of a batch, e.g. to their precision.
            found: Sets that the framework has, if none were named.
            training: Loss, inputs and targets that the framework has, if none were given.
            **changed: Options that are others than given.

        Raises:
            TelescopeError: Whatever the lens refuses.
        """  # what it calls raises
        self.close()
        device = next(model.parameters()).device

        def move(inputs: Any) -> Any:
            if not is_in_memory(inputs):
                return inputs
            return map_rows(cast(Rows, inputs), lambda leaf: convert(leaf.to(device)))

        inputs = {name: move(rows) for name, rows in self._inputs.items()}
        for name, rows in (found or {}).items():
            inputs[name] = _fitting(model, move(rows), self.rows_of_a_found_set)
        loss, train, y = training or (self._loss, inputs.pop("train", None), self._targets)
        targets = None if y is None else convert(y.to(device))
        self._is_streamed = is_loader(train)
        lens = TelescopeLens(
            model,
            # Predictions follow whatever requires a gradient, by one optimizer or by several.
            optimizers[0] if self.looks_into_steps else None,
            loss,
            train,
            targets,
            inputs,
            eval_rows=self._eval_rows,
            **{**self._options, **changed},
        )
        if state is not None:
            lens.load_state_dict(state)
        self._log = lens.log_to(
            NullRun() if self._target is None else self._target,
            description=self._description,
            every=self._every,
            alerts=self._alerts,
        )
        self._lens = lens
        self._optimizers = optimizers
        self.forget()
        self._stepped = False
        if not self.looks_into_steps:
            self._watch_steps(self._hooks)

    def collect(self, index: Tensor, targets: Tensor | None = None) -> None:
        """Take in a batch that adds to the gradient of the next step.

        Args:
            index: Its positions in the training set.
            targets: Its targets, for a training set that is a loader.
        """
        self._micro_batches.append(index)
        if self._is_streamed and targets is not None:
            self._targets_seen.append(targets)

    def forget(self) -> None:
        """Leave out what was collected since the last step."""
        self._micro_batches.clear()
        self._targets_seen.clear()

    def begin(self) -> None:
        """Begin the step that all collected batches lead to; parameters have not moved yet.

        Predictions alone need no beginning.

        Raises:
            ConfigurationError: The batches are of different sizes (with probes): their mean
                gradients then do not average to the gradient of a mean over all rows.
        """
        if not self.looks_into_steps:
            return
        self.abandon()
        sizes = [len(index) for index in self._micro_batches]
        if len(set(sizes)) > 1 and not self.lens._run.sight.is_replayed:
            raise ConfigurationError(
                f"gradients are accumulated over batches of {', '.join(map(str, sizes))} rows, so "
                "rows count differently within one step; make the batches equal (drop_last=True, "
                "or a batch size that divides the training set), or use probes=None"
            )
        if not sizes:
            raise ConfigurationError("a step was taken on no batch of the training set")
        index = torch.cat(self._micro_batches)
        targets = torch.cat(self._targets_seen) if self._targets_seen else None
        self.forget()
        step = ExitStack()
        step.enter_context(self.lens.step(index, targets=targets))
        self._stepped = False
        self._watch_steps(step)
        self._step = step

    def end(self) -> dict[str, float] | None:
        """End the step that was begun, if one was.

        A step that the optimizer did not take is no step of the lens: frameworks leave one out when
        scaled gradients overflow (``GradScaler``).

        Returns:
            The record of this step, if it is time for one.
        """
        if self._lens is None:
            return None
        if self.looks_into_steps:
            if not self._stepped:
                self.abandon()
            step, self._step = self._step, None
            if step is None:
                return None
            step.close()
        else:
            stepped, self._stepped = self._stepped, False
            if not stepped:
                return None
            with self.lens.step():
                """Predictions see the parameters as they are now."""
        return self._newest()

    def finish(self) -> dict[str, float] | None:
        """Take a last record, for a run that ends between two.

        Returns:
            The record, if it is not one that :meth:`end` has returned.
        """
        self.abandon()
        if self._log is None or not self.lens.steps or self._newest() is not None:
            return None
        self._log.take(self.lens)
        return self._newest()

    def _newest(self) -> dict[str, float] | None:
        """The record of the last step, if there is one."""
        record = None if self._log is None else self._log.record
        return record if record is not None and record["step"] == self.lens.steps else None

    def abandon(self, error: BaseException | None = None) -> None:
        """End a step that failed or was never taken, so that no hook is left behind."""
        step, self._step = self._step, None
        if step is not None:
            error = error or RuntimeError("the step was not taken")
            step.__exit__(type(error), error, error.__traceback__)

    def close(self) -> None:
        """End the logging."""
        self.abandon()
        self._hooks.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def _watch_steps(self, until: ExitStack) -> None:
        """Take note when an optimizer moves parameters."""

        def note(optimizer: Any, *_: Any) -> None:
            # A fused optimizer leaves parameters as they are for a scaler that found infinities.
            found = getattr(optimizer, "found_inf", None)
            self._stepped = self._stepped or found is None or not bool(found)

        for optimizer in self._optimizers:
            until.callback(optimizer.register_step_post_hook(note).remove)


def _fitting(model: nn.Module, rows: Rows, most: int) -> Rows:
    """The first rows, so many that their outputs fit."""
    one = take_rows(rows, slice(0, 1), next(model.parameters()).device)
    with torch.no_grad(), Network(model, training=False).at() as call:
        outputs = call(one)
    entries = outputs.numel() if isinstance(outputs, Tensor) else 1
    count = max(1, min(most, count_rows(rows), _MOST_OUTPUTS // max(1, entries)))
    return take_rows(rows, slice(0, count), next(model.parameters()).device)
