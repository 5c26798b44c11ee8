"""Short training runs put together from the zoo, for any number of observers at once."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from telescope_core.testing.columns import Rows, call, take
from telescope_core.testing.models import SPECIMENS
from telescope_core.testing.recipes import LOSSES, OPTIMIZERS, Loss


class Observer(Protocol):
    """What surrounds a training step: the lens, the oracle."""

    def step(self, index: Tensor) -> AbstractContextManager[object]:
        """Follow one step on the training points at positions ``index``."""
        ...


@dataclass
class Training:
    """A run that can be advanced step by step; attributes as the lens takes them."""

    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    train_inputs: Rows
    train_targets: Tensor
    eval_sets: dict[str, Rows]
    batches: list[Tensor]
    schedule: str | None = None
    done: int = 0
    losses: list[float] = field(default_factory=list)

    def run(self, *observers: Observer, steps: int | None = None) -> None:
        """Train for some steps, or to the end, inside the observers' steps."""
        end = len(self.batches) if steps is None else self.done + steps
        while self.done < end:
            index = self.batches[self.done]
            with ExitStack() as stack:
                for observer in observers:
                    stack.enter_context(observer.step(index))
                if self.schedule == "before":
                    self.change_learning_rates(self.done)
                self.optimizer.zero_grad()
                outputs = call(self.model, take(self.train_inputs, index))
                value = self.loss(outputs, self.train_targets[index])
                value.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                if self.schedule == "after":
                    self.change_learning_rates(self.done)
            self.losses.append(float(value.detach()))
            self.done += 1

    def change_learning_rates(self, number: int, optimizer: Optimizer | None = None) -> None:
        """Set the learning rates of step ``number``, of this run's optimizer or of a copy."""
        for group in (optimizer or self.optimizer).param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * (1 + 0.5 * math.sin(1.0 + number))

    def parameters(self) -> list[Tensor]:
        """Return copies of the parameters now."""
        return [p.detach().clone() for p in self.model.parameters()]


@dataclass(frozen=True)
class Scenario:
    """The recipe of a run.

    Attributes:
        specimen: A name in ``SPECIMENS``.
        optimizer: A name in ``OPTIMIZERS``.
        loss: A name in ``LOSSES``.
        rows: n.
        eval_rows: Rows of the set "test".
        other_rows: Rows of the set "other"; 0 for no such set.
        steps: T.
        batch_size: ``None`` for the full batch, in order.
        schedule: ``None``, or when the learning rate changes inside each step: "before" or "after"
            the optimizer has moved.
        seed: Of model, data and batches.
    """

    specimen: str = "mlp-vector"
    optimizer: str = "sgd"
    loss: str = "mse"
    rows: int = 8
    eval_rows: int = 3
    other_rows: int = 2
    steps: int = 10
    batch_size: int | None = 3
    schedule: str | None = None
    seed: int = 0

    def __str__(self) -> str:
        batch = "full" if self.batch_size is None else f"B{self.batch_size}"
        schedule = f"-lr_{self.schedule}" if self.schedule else ""
        return f"{self.specimen}-{self.optimizer}-{self.loss}-{batch}{schedule}"

    def start(self, *, plain: bool = False) -> Training:
        """Build everything anew; the same recipe gives the same run, bit for bit.

        Args:
            plain: Whether to take the model's plain form, which computes the same.

        Returns:
            The run before its first step.
        """
        specimen = SPECIMENS[self.specimen]
        loss, kind = LOSSES[self.loss]
        model = specimen.plain_model(self.seed) if plain else specimen.model(self.seed)
        generator = torch.Generator().manual_seed(self.seed + 1)
        sizes = {"test": self.eval_rows, "other": self.other_rows}
        return Training(
            model,
            OPTIMIZERS[self.optimizer](model),
            loss,
            specimen.inputs(self.rows, self.seed + 2),
            specimen.targets(self.rows, self.seed + 3, kind),
            {
                name: specimen.inputs(rows, self.seed + 4 + number)
                for number, (name, rows) in enumerate(sizes.items())
                if rows
            },
            [
                torch.arange(self.rows)
                if self.batch_size is None
                else torch.randperm(self.rows, generator=generator)[: self.batch_size]
                for _ in range(self.steps)
            ],
            self.schedule,
        )
