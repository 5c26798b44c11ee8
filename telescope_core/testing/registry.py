"""Cells of model × update rule × loss × reading, and what each of them has to show.

A cell of a model that is followed is right: every reading of an observer equals that of a
:class:`~telescope_core.testing.account.RowAccount` that watched a training of its own, of the
model's plain form.  A cell of a refused model raises the error that the zoo names.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from telescope_core.errors import TelescopeError
from telescope_core.testing.account import RowAccount
from telescope_core.testing.columns import Rows, call, coordinates, jacobian, take
from telescope_core.testing.comparison import assert_agrees
from telescope_core.testing.models import ZOO, Refusal, ZooModel
from telescope_core.testing.scenario import Observer
from telescope_core.testing.zoo import LOSSES, OPTIMIZERS, Loss

Quadrature = Literal["start", "trapezoid", "midpoint"]
_T = TypeVar("_T")

#: Quadrature and stride of a reading; "start" is first order, the others are second order.
BLOCKS: tuple[tuple[Quadrature, int], ...] = (
    ("trapezoid", 1),
    ("start", 3),
    ("midpoint", 2),
    ("trapezoid", 4),
    ("start", 1),
    ("midpoint", 3),
)
STEPS = 5
MOMENTS = (3, STEPS)
ROWS, EVAL_ROWS, BATCH = 8, 2, 3
TOLERANCE = 1e-8
# A refusal comes while there is nothing yet to be read of training.
_STEPS_BEFORE_REFUSAL = 2


class Reader(Observer, Protocol):
    """An observer of training that can be read."""

    def predictions(self, name: str) -> Tensor:
        """F on a set."""
        ...

    def telescoped(self, name: str) -> Tensor:
        """f̃ on a set."""
        ...

    def linearized(self, name: str) -> Tensor:
        """The lazy linearisation on a set."""
        ...

    def smoother(self, name: str) -> Tensor:
        """S on a set."""
        ...

    def constant(self, name: str) -> Tensor:
        """C on a set, for a quadratic loss."""
        ...


@dataclass
class Run:
    """A training that is advanced step by step; attributes as the lens takes them."""

    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    train_inputs: Rows
    train_targets: Tensor
    eval_sets: dict[str, Rows]
    batches: list[Tensor]
    done: int = 0

    def advance(self, *observers: Observer, steps: int) -> None:
        """Train for some steps inside the steps of the observers."""
        for index in self.batches[self.done : self.done + steps]:
            with ExitStack() as stack:
                for observer in observers:
                    stack.enter_context(observer.step(index))
                self.optimizer.zero_grad()
                outputs = call(self.model, take(self.train_inputs, index))
                value = self.loss(outputs, self.train_targets[index])
                value.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
            self.done += 1


@dataclass(frozen=True)
class Cell:
    """One combination of the registry.

    Attributes:
        model: A name in ``ZOO``.
        optimizer: A name in ``OPTIMIZERS``.
        loss: A name in ``LOSSES``.
        quadrature: What stands for J over a block.
        stride: Steps in a block.
        seed: Of model, data and batches.
    """

    model: str
    optimizer: str
    loss: str
    quadrature: Quadrature = "trapezoid"
    stride: int = 1
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.model}-{self.optimizer}-{self.loss}-{self.quadrature}{self.stride}"

    @property
    def order(self) -> Literal[1, 2]:
        """The order of the approximation."""
        return 1 if self.quadrature == "start" else 2

    @property
    def strategy(self) -> Literal["parameter-space", "midpoint"]:
        """The lens's name for how the smoother is carried."""
        return "midpoint" if self.quadrature == "midpoint" else "parameter-space"

    def start(self, *, plain: bool = False) -> Run:
        """Build a run; the same cell gives the same run, and its plain form the same numbers."""
        specimen = ZOO[self.model]
        loss, kind = LOSSES[self.loss]
        model = specimen.plain_model(self.seed) if plain else specimen.model(self.seed)
        generator = torch.Generator().manual_seed(self.seed + 1)
        return Run(
            model,
            OPTIMIZERS[self.optimizer](model),
            loss,
            specimen.inputs(ROWS, self.seed + 2),
            specimen.targets(ROWS, self.seed + 3, kind),
            {"test": specimen.inputs(EVAL_ROWS, self.seed + 4)},
            [torch.randperm(ROWS, generator=generator)[:BATCH] for _ in range(STEPS)],
        )


# ---------------------------------------------------------------------------------------- cells


def registry(cells_per_model: int = 6) -> list[Cell]:
    """A seeded subset of the full product.

    Every model meets quadratic and other losses in turn, every rule and every block comes up as
    often as any other, and the first cells of a model do not depend on how many there are.

    Args:
        cells_per_model: How many cells each model has that is followed.

    Returns:
        The cells of all models that a lens with probes follows, the first ones of all first.
    """
    followed = [model for model in ZOO.values() if model.refused is None]
    draw = random.Random(0)
    rules, blocks = _endless(draw, tuple(OPTIMIZERS)), _endless(draw, BLOCKS)
    cells = []
    for number in range(cells_per_model):
        for model in followed:
            losses = model.squared_losses if number % 2 == 0 else model.other_losses
            rule = next(rules) if model.rules is None else draw.choice(model.rules)
            cells.append(Cell(model.name, rule, draw.choice(losses), *next(blocks), seed=number))
    return cells


def _endless(draw: random.Random, choices: Sequence[_T]) -> Iterator[_T]:
    """The choices over and over, each time in another order."""
    for _ in itertools.count():
        yield from draw.sample(choices, len(choices))


# ------------------------------------------------------------------------------------- checking


def compare(cell: Cell, attach: Callable[[Run, Cell], Reader]) -> None:
    """Require of an observer what the row-by-row account reads, inside blocks and at their ends.

    The account watches a training of its own, so that an observer that changes training is found,
    too.

    Args:
        cell: Of a model that is followed.
        attach: Makes the observer, with all label directions.

    Raises:
        AssertionError: A reading differs, or the parameters do.
    """
    run, other = cell.start(), cell.start(plain=True)
    reader = attach(run, cell)
    account = RowAccount(
        other.model,
        other.optimizer,
        other.loss,
        other.train_inputs,
        other.train_targets,
        other.eval_sets,
        quadrature=cell.quadrature,
        stride=cell.stride,
    )
    quantities = ["predictions", "telescoped", "linearized", "smoother"]
    if cell.loss in ZOO[cell.model].squared_losses:
        quantities.append("constant")
    for moment in MOMENTS:
        run.advance(reader, steps=moment - run.done)
        other.advance(account, steps=moment - other.done)
        assert_agrees(
            parameters_of(run.model),
            parameters_of(other.model),
            tolerance=TOLERANCE,
            what=f"{cell}: parameters after step {moment}",
        )
        for name, quantity in itertools.product(("train", "test"), quantities):
            assert_agrees(
                getattr(reader, quantity)(name),
                getattr(account, quantity)(name),
                tolerance=TOLERANCE,
                what=f"{cell}: {quantity} of {name} after step {moment}",
            )


def compare_predictions(model: ZooModel, attach: Callable[[Run, Cell], Reader]) -> None:
    """Require f and f̃ of an observer without probes, whatever moves the parameters.

    Args:
        model: Whose gradients in training need not be those of its outputs.
        attach: Makes the observer, for predictions only.

    Raises:
        AssertionError: A reading differs.
    """
    cell = Cell(model.name, "sgd-momentum", "mse")
    run, plain = cell.start(), model.plain_model(cell.seed)
    reader = attach(run, cell)
    parameters = [p for p in plain.parameters() if p.requires_grad]
    theta, J = parameters_of(plain), jacobian(plain, run.eval_sets["test"], parameters)
    expected = reader.predictions("test")
    for _ in range(STEPS):
        run.advance(reader, steps=1)
        plain.load_state_dict(run.model.state_dict())
        moved, J_now = parameters_of(plain), jacobian(plain, run.eval_sets["test"], parameters)
        step = (J + J_now) @ (moved - theta) / 2
        expected, theta, J = expected + step.reshape(expected.shape), moved, J_now
    assert_agrees(
        reader.telescoped("test"), expected, tolerance=TOLERANCE, what=f"{cell}: telescoped"
    )


def require_refusal(
    model: ZooModel, refusal: Refusal, attach: Callable[[Run, Cell], Observer]
) -> TelescopeError:
    """Require an error of the right class and content at attach or in the first steps.

    Args:
        model: A refused model.
        refusal: What is expected.
        attach: Makes the observer.

    Returns:
        The error.

    Raises:
        AssertionError: There was none, or its message does not name what it should.
    """
    cell = Cell(model.name, "sgd", "mse", stride=_STEPS_BEFORE_REFUSAL)
    run = cell.start()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(cell.seed)
            run.advance(attach(run, cell), steps=_STEPS_BEFORE_REFUSAL)
    except refusal.errors as error:
        if re.search(refusal.pattern, str(error)) is None:
            raise AssertionError(
                f"{model.name}: refused without naming {refusal.pattern!r}: {error}"
            ) from error
        return error
    expected = " or ".join(error.__name__ for error in refusal.errors)
    raise AssertionError(
        f"{model.name}: accepted for {_STEPS_BEFORE_REFUSAL} steps, expected {expected}"
    )


def parameters_of(model: nn.Module) -> Tensor:
    """All parameters that require a gradient as real numbers, (p,)."""
    return torch.cat([coordinates(p) for p in model.parameters() if p.requires_grad])
