"""What the case studies' training shares: the loop, plain PyTorch with lenses attached."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from telescope_core.errors import NonFiniteError
from telescope_core.lens import TelescopeLens
from telescope_core.losses.labels import Loss
from telescope_core.seeds import derive_seed
from telescope_pipeline.contract import Checkpoint, Progress, Trained
from telescope_pipeline.schemas.sections import Section
from telescope_pipeline.study.training.early_stopping import EarlyStopping
from telescope_pipeline.study.training.state import pack, unpack

Row = dict[str, int | float]


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared error of outputs (rows, 1) against targets (rows,), a scalar."""
    return 0.5 * (outputs.squeeze(-1) - targets).square().mean()


def squared_error(outputs: Tensor, targets: Tensor) -> float:
    """Mean squared error of outputs (rows, 1) or (rows,), accumulated in float64."""
    errors = outputs.reshape(targets.shape).cpu().double() - targets.cpu().double()
    return float(errors.square().mean())


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Part of the rows on the right side of 1/2, for targets 0 and 1."""
    right = (outputs.reshape(targets.shape) > 0.5) == (targets > 0.5)
    return int(right.sum()) / len(targets)


def class_accuracy(outputs: Tensor, classes: Tensor) -> float:
    """Part of the rows whose largest output (rows, k) is that of their class (rows,)."""
    return int((outputs.argmax(dim=-1) == classes).sum()) / len(classes)


def fit(model: nn.Module, data: Mapping[str, Tensor]) -> Row:
    """Errors and accuracies of a network on its two sets.

    Args:
        model: Gives outputs (rows, 1).
        data: ``<set>_inputs`` (rows, d) and ``<set>_targets`` (rows,) of ``train`` and ``test``;
            ``train_clean_targets`` too, if labels were changed.

    Returns:
        ``<set>/mse`` and ``<set>/accuracy``, and ``train/clean_accuracy`` where it applies.
    """
    outputs = {name: model(data[f"{name}_inputs"]) for name in ("train", "test")}
    row: Row = {
        f"{name}/mse": squared_error(seen, data[f"{name}_targets"])
        for name, seen in outputs.items()
    }
    row["train/accuracy"] = accuracy(outputs["train"], data["train_targets"])
    if "train_clean_targets" in data:
        row["train/clean_accuracy"] = accuracy(outputs["train"], data["train_clean_targets"])
    row["test/accuracy"] = accuracy(outputs["test"], data["test_targets"])
    return row


def smoother_lens(
    settings: Section,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Mapping[str, Tensor],
    *,
    seed: int,
    eval_sets: Sequence[str] = ("test",),
    loss: Loss = half_squared_error,
) -> TelescopeLens:
    """Attach a lens that follows the smoother of a loss.

    Args:
        settings: The section of the lens: order, stride and probes; ``deflate``, ``kernel_norms``
            and ``chunk_size`` too, if there is a choice.
        model: Gives outputs (rows, k), in one column for the loss that is the default.
        optimizer: Over the model's parameters.
        data: ``train_inputs``, ``train_targets``, and the inputs of each further set.
        seed: Decides the probes.
        eval_sets: Names of the further sets.
        loss: What training descends.

    Returns:
        The lens.
    """
    return TelescopeLens(
        model,
        optimizer,
        loss,
        data["train_inputs"],
        data["train_targets"],
        eval_sets={name: data[f"{name}_inputs"] for name in eval_sets},
        seed=seed,
        **settings.model_dump(
            include={"order", "stride", "probes", "deflate", "kernel_norms", "chunk_size"}
        ),
    )


@dataclass(frozen=True)
class Batches:
    """Mini-batches without replacement, each epoch in an order of its own.

    The order of an epoch depends on the seed and the epoch's number alone, so a resumed run sees
    the batches of the uninterrupted one. The last batch of an epoch may be smaller.

    Attributes:
        rows: Size of the training set.
        size: Rows in a batch.
        seed: Decides every order.
    """

    rows: int
    size: int
    seed: int
    _orders: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(self.rows / self.size)

    def at(self, step: int) -> Tensor:
        """Positions of the batch that update number ``step`` (from 0) uses, int64."""
        epoch, position = divmod(step, self.per_epoch)
        if epoch not in self._orders:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
            self._orders.clear()
            self._orders[epoch] = torch.randperm(self.rows, generator=generator)
        return self._orders[epoch][position * self.size : (position + 1) * self.size]


@dataclass
class TrainingRun:
    """A model in training, watched by lenses, recorded at chosen steps and resumable.

    Attributes:
        model: Gives outputs (rows, k).
        optimizer: Over the model's parameters.
        lenses: Lenses by name; all of them see every step.
        inputs: Training inputs (n, ...).
        targets: Training targets (n,).
        batch: Positions of the batch of each update.
        steps: Number of updates.
        record_steps: Increasing steps at which to record; step 0 is the initialisation.
        record: What to record now, a flat dict of numbers.
        checkpoint_every: Updates between two checkpoints.
        loss: What the updates descend, ``loss(outputs, targets) -> scalar``.
        stopping: Ends the run before its last step; the step it ends at is recorded.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    lenses: dict[str, TelescopeLens]
    inputs: Tensor
    targets: Tensor
    batch: Callable[[int], Tensor]
    steps: int
    record_steps: Sequence[int]
    record: Callable[[], dict[str, Any]]
    checkpoint_every: int
    loss: Callable[[Tensor, Tensor], Tensor] = half_squared_error
    stopping: EarlyStopping | None = None

    def run(self, checkpoint: Checkpoint, progress: Progress) -> pd.DataFrame:
        """Train to the end, from the last checkpoint if there is one.

        Args:
            checkpoint: Where to look for and keep the state.
            progress: Told the number of updates done, about a hundred times.

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
        else:
            self._record(0, rows)
        progress(start, self.steps)
        often = max(1, self.steps // 100)
        wanted = set(self.record_steps)
        for step in range(start + 1, self.steps + 1):
            self._update(self.batch(step - 1).to(self.inputs.device))
            ends = self.stopping is not None and self.stopping.is_due(step)
            if step in wanted or ends:
                self._record(step, rows)
            if ends:
                progress(self.steps, self.steps)
                break
            if step % self.checkpoint_every == 0 and step < self.steps:
                self._save(step, rows, checkpoint)
            if step % often == 0 or step == self.steps:
                progress(step, self.steps)
        return pd.DataFrame(rows).astype({"step": "int64"})

    def finish(self, checkpoint: Checkpoint, progress: Progress) -> Trained:
        """Train to the end as :meth:`run` does; give the history and the final weights."""
        history = self.run(checkpoint, progress)
        final = {name: value.cpu() for name, value in self.model.state_dict().items()}
        return Trained(history, final)

    def _save(self, step: int, rows: list[Row], checkpoint: Checkpoint) -> None:
        tensors, states = pack(self.model, self.optimizer, dict(self.lenses))
        state: dict[str, Any] = {"step": step, "rows": rows, "lenses": states}
        if self.stopping is not None:
            state["stopping"] = self.stopping.state()
        checkpoint.save(tensors, state)

    def _update(self, index: Tensor) -> None:
        with contextlib.ExitStack() as watched:
            for lens in self.lenses.values():
                watched.enter_context(lens.step(index))
            self.optimizer.zero_grad()
            self.loss(self.model(self.inputs[index]), self.targets[index]).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def _record(self, step: int, rows: list[Row]) -> None:
        with torch.no_grad():
            measured = {name: value for name, value in self.record().items() if name != "step"}
        for name, value in measured.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{name} is {value} after {step} updates; expected a finite number: lower the "
                    "learning rate"
                )
        rows.append({"step": step, **measured})
