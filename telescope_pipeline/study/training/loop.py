"""The training loop that the case studies share: plain PyTorch with lenses attached."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from telescope_core.errors import NonFiniteError
from telescope_core.lens import TelescopeLens
from telescope_core.losses import Loss
from telescope_core.seeds import derive_seed
from telescope_pipeline.contract import Checkpoint, Progress, Recorded, Trained, TrainingJob
from telescope_pipeline.schemas.sections import Section
from telescope_pipeline.study.training.early_stopping import EarlyStopping
from telescope_pipeline.study.training.measures import Row, half_squared_error
from telescope_pipeline.study.training.schedules import log_spaced_steps
from telescope_pipeline.study.training.state import pack, unpack

_OF_LENS = {"order", "stride", "probes", "deflate", "response", "kernel_norms", "chunk_size"}


def attach_lens(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Mapping[str, Tensor],
    settings: Section | None = None,
    *,
    eval_sets: Mapping[str, Tensor] | None = None,
    loss: Loss = half_squared_error,
    **options: Any,
) -> TelescopeLens:
    """Attach a lens to a network and its optimizer.

    Args:
        model: Gives outputs (rows, k), in one column for the loss that is the default.
        optimizer: Over the model's parameters.
        data: ``train_inputs`` and ``train_targets``, and ``test_inputs`` unless ``eval_sets`` says
            otherwise.
        settings: The section of the lens, as far as it has these: order, stride, probes, deflate,
            response, kernel_norms and chunk_size.
        eval_sets: Inputs of the further sets by name; those of ``test`` if None.
        loss: What training descends.
        **options: Of the lens; they go before its settings.

    Returns:
        The lens.
    """
    return TelescopeLens(
        model,
        optimizer,
        loss,
        data["train_inputs"],
        data["train_targets"],
        eval_sets={"test": data["test_inputs"]} if eval_sets is None else dict(eval_sets),
        **({} if settings is None else settings.model_dump(include=_OF_LENS)) | options,
    )


@dataclass(frozen=True)
class Batches:
    """Mini-batches without replacement, each epoch in an order of its own.

    The order of an epoch depends on the seed and the epoch's number alone, so a resumed run sees
    the batches of the uninterrupted one. The last batch of an epoch may be smaller.

    Attributes:
        rows: Size of the training set.
        size: Rows in a batch; None for all of them, in their own order.
        seed: Decides every order.
    """

    rows: int
    size: int | None
    seed: int = 0
    _orders: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(self.rows / (self.size or self.rows))

    def at(self, step: int) -> Tensor:
        """Positions of the batch that update number ``step`` (from 0) uses, int64."""
        if self.size is None:
            return torch.arange(self.rows)
        epoch, position = divmod(step, self.per_epoch)
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
            self._orders.clear()
            self._orders[epoch] = torch.randperm(self.rows, generator=generator)
        return self._orders[epoch][position * self.size : (position + 1) * self.size]


class RecordSettings(Protocol):
    """A section of the lens, as far as records and checkpoints are concerned."""

    @property
    def stride(self) -> int:
        """Steps of a block, at whose end a record costs least."""

    @property
    def records(self) -> int:
        """Records after step 0, at most."""

    @property
    def checkpoint_every(self) -> int:
        """Updates between two checkpoints."""


@dataclass
class TrainingRun:
    """A model in training, watched by lenses, recorded at chosen steps and resumable.

    Attributes:
        model: Gives outputs (rows, k).
        optimizer: Over the model's parameters.
        data: ``train_inputs`` (n, ...) and ``train_targets`` (n, ...).
        lenses: Lenses by name; all of them see every step.
        batches: Which rows each update uses.
        steps: Number of updates.
        settings: How often to record, evenly in log(step), and to keep the state.
        record: What to record now, a flat dict of numbers.
        loss: What the updates descend, ``loss(outputs, targets) -> scalar``.
        rate: Learning rate of each update, if it changes. A function of the step alone, so that a
            resumed run needs no state of a scheduler.
        record_steps: Increasing steps at which to record instead; step 0 is the initialisation.
        stopping: Ends the run before its last step; the step it ends at is recorded.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Mapping[str, Tensor]
    lenses: dict[str, TelescopeLens]
    batches: Batches
    steps: int
    settings: RecordSettings
    record: Callable[[], Mapping[str, float]]
    loss: Loss = half_squared_error
    rate: Callable[[int], float] | None = None
    record_steps: Sequence[int] | None = None
    stopping: EarlyStopping | None = None

    def run(
        self,
        checkpoint: Checkpoint,
        progress: Progress,
        recorded: Recorded = lambda row: None,
    ) -> pd.DataFrame:
        """Train to the end, from the last checkpoint if there is one.

        Args:
            checkpoint: Where to look for and keep the state.
            progress: Told the number of updates done, about a hundred times.
            recorded: Told every row, also those of the checkpoint.

        Returns:
            One row per recorded step: ``step`` (int64), then what ``record`` gave.

        Raises:
            NonFiniteError: A recorded number is NaN or infinite.
        """
        rows: list[Row] = []
        start = 0
        if (stored := checkpoint.load()) is not None:
            tensors, state = stored
            unpack(self.model, self.optimizer, self.lenses, tensors, state["lenses"])
            start, rows = state["step"], state["rows"]
            if self.stopping is not None:
                self.stopping.load(state["stopping"])
            for row in rows:
                recorded(row)
        else:
            recorded(self._record(0, rows))
        progress(start, self.steps)
        often = max(1, self.steps // 100)
        wanted = set(self._record_steps())
        for step in range(start + 1, self.steps + 1):
            self._update(step - 1)
            ends = self.stopping is not None and self.stopping.is_due(step)
            if step in wanted or ends:
                recorded(self._record(step, rows))
            if ends:
                progress(self.steps, self.steps)
                break
            if step % self.settings.checkpoint_every == 0 and step < self.steps:
                self._save(step, rows, checkpoint)
            if step % often == 0 or step == self.steps:
                progress(step, self.steps)
        return pd.DataFrame(rows).astype({"step": "int64"})

    def finish(self, job: TrainingJob[Any]) -> Trained:
        """Train to the end as :meth:`run` does; give the history and the final weights."""
        history = self.run(job.checkpoint, job.progress, job.recorded)
        return Trained(history, final_state(self.model))

    def _record_steps(self) -> Sequence[int]:
        if self.record_steps is not None:
            return self.record_steps
        return log_spaced_steps(self.steps, self.settings.records, stride=self.settings.stride)

    def _save(self, step: int, rows: list[Row], checkpoint: Checkpoint) -> None:
        tensors, states = pack(self.model, self.optimizer, dict(self.lenses))
        state: dict[str, Any] = {"step": step, "rows": rows, "lenses": states}
        if self.stopping is not None:
            state["stopping"] = self.stopping.state()
        checkpoint.save(tensors, state)

    def _update(self, step: int) -> None:
        if self.rate is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(step)
        inputs, targets = self.data["train_inputs"], self.data["train_targets"]
        index = self.batches.at(step).to(inputs.device)
        with contextlib.ExitStack() as watched:
            for lens in self.lenses.values():
                watched.enter_context(lens.step(index))
            self.optimizer.zero_grad()
            self.loss(self.model(inputs[index]), targets[index]).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def _record(self, step: int, rows: list[Row]) -> Row:
        with torch.no_grad():
            measured = {name: value for name, value in self.record().items() if name != "step"}
        for name, value in measured.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value} after {step} updates; expected a finite number: lower the "
                    "learning rate"
                )
        rows.append({"step": step, **measured})
        return rows[-1]


def final_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU."""
    return {name: value.cpu() for name, value in model.state_dict().items()}
