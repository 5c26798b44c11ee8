"""What all callbacks share: a lens that is attached late and told of steps by hooks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError
from telescope_core.lens import TelescopeLens
from telescope_core.live import LiveLog, Target
from telescope_core.live.alerts import AlertRule
from telescope_core.losses import Loss
from telescope_core.network.inputs import Inputs, Rows, is_in_memory, map_rows
from telescope_core.trackers.null import NullRun
from telescope_core.trackers.protocol import RunDescription


class Follower:
    """Follows a training run whose model and optimizer are only known once it starts.

    Args:
        loss: ``loss(outputs, targets) -> scalar``, as training computes it.
        train_inputs: Rows of the training set, in the order of the dataset, on any device.
        train_targets: Their targets, on any device.
        eval_sets: More inputs by name, on any device.
        log_to: Where records go besides; see :meth:`telescope_core.TelescopeLens.log_to`.
        description: The run to start, if ``log_to`` is a tracker.
        every: Optimizer steps from one record to the next; ``None`` for what
            :meth:`telescope_core.TelescopeLens.log_to` takes.
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
        log_to: Target | None = None,
        description: RunDescription | None = None,
        every: int | None = None,
        alerts: Sequence[AlertRule] = (),
        **options: Any,
    ) -> None:
        self._loss = loss
        self._inputs = {"train": train_inputs, **(eval_sets or {})}
        self._targets = train_targets
        self._target = log_to
        self._description = description
        self._every = every
        self._alerts = alerts
        self._options = options
        self._lens: TelescopeLens | None = None
        self._log: LiveLog | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._micro_batches: list[Tensor] = []
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
    def has_smoother(self) -> bool:
        """Whether the lens has probes, so that gradients have to be the loss's own."""
        return self._options.get("probes", 0) is not None

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        state: Mapping[str, Any] | None = None,
        convert: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> None:
        """Attach a new lens, in the mode the model is trained in.

        Args:
            model: What maps inputs to outputs.
            optimizer: The torch optimizer itself.
            state: From the lens's ``state_dict``, to go on from there.
            convert: What the framework does to the tensors of a batch, e.g. to their precision.

        Raises:
            TelescopeError: Whatever the lens refuses.
        """
        self.close()
        device = next(model.parameters()).device

        def move(inputs: Inputs) -> Inputs:
            if not is_in_memory(inputs):
                return inputs
            return map_rows(cast(Rows, inputs), lambda leaf: convert(leaf.to(device)))

        inputs = {name: move(rows) for name, rows in self._inputs.items()}
        train = inputs.pop("train")
        targets = convert(self._targets.to(device))
        lens = TelescopeLens(model, optimizer, self._loss, train, targets, inputs, **self._options)
        if state is not None:
            lens.load_state_dict(state)
        self._log = lens.log_to(
            NullRun() if self._target is None else self._target,
            description=self._description,
            every=self._every,
            alerts=self._alerts,
        )
        self._lens = lens
        self._optimizer = optimizer
        self._micro_batches.clear()

    def collect(self, index: Tensor) -> None:
        """Take in a batch that adds to the gradient of the next step."""
        self._micro_batches.append(index)

    def forget(self) -> None:
        """Leave out what was collected since the last step."""
        self._micro_batches.clear()

    def begin(self) -> None:
        """Begin the step that all collected batches lead to; parameters have not moved yet.

        Raises:
            ConfigurationError: The batches are of different sizes (with probes): their mean
                gradients then do not average to the gradient of a mean over all rows.
        """
        self.abandon()
        sizes = [len(index) for index in self._micro_batches]
        if self.has_smoother and len(set(sizes)) > 1:
            raise ConfigurationError(
                f"gradients are accumulated over batches of {', '.join(map(str, sizes))} rows, so "
                "rows count differently within one step; make the batches equal (drop_last=True, "
                "or a batch size that divides the training set), or use probes=None"
            )
        if not sizes:
            raise ConfigurationError("a step was taken on no batch of the training set")
        index = torch.cat(self._micro_batches)
        self._micro_batches.clear()
        step = ExitStack()
        step.enter_context(self.lens.step(index))
        assert self._optimizer is not None
        self._stepped = False
        step.callback(self._optimizer.register_step_post_hook(self._note_step).remove)
        self._step = step

    def end(self) -> dict[str, float] | None:
        """End the step that was begun, if one was.

        A step that the optimizer did not take is no step of the lens: frameworks leave one out when
        scaled gradients overflow (``GradScaler``).

        Returns:
            The record of this step, if it is time for one.
        """
        if not self._stepped:
            self.abandon()
        step, self._step = self._step, None
        if step is None:
            return None
        step.close()
        record = None if self._log is None else self._log.record
        return record if record is not None and record["step"] == self.lens.steps else None

    def abandon(self, error: BaseException | None = None) -> None:
        """End a step that failed or was never taken, so that no hook is left behind."""
        step, self._step = self._step, None
        if step is not None:
            error = error or RuntimeError("the step was not taken")
            step.__exit__(type(error), error, error.__traceback__)

    def _note_step(self, *_: Any) -> None:
        self._stepped = True

    def close(self) -> None:
        """End the logging."""
        self.abandon()
        if self._log is not None:
            self._log.close()
            self._log = None
