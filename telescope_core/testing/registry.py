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
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from telescope_core.errors import TelescopeError
from telescope_core.testing.account import Quadrature, RowAccount
from telescope_core.testing.columns import coordinates, jacobian
from telescope_core.testing.comparison import assert_agrees
from telescope_core.testing.models import ZOO, Refusal, ZooModel
from telescope_core.testing.recipes import OPTIMIZERS
from telescope_core.testing.scenario import Scenario, Training

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
#: Quadratic losses, which suit every model.
SQUARED_LOSSES = ("mse", "half-squared")
STEPS = 5
MOMENTS = (3, STEPS)
ROWS, EVAL_ROWS, BATCH = 8, 2, 3
TOLERANCE = 1e-8
# A refusal comes while there is nothing yet to be read of training.
_STEPS_BEFORE_REFUSAL = 2


#: Makes an observer of a run, with the readings of a RowAccount, for what a cell asks of it.
Attach = Callable[[Training, "Cell"], Any]


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

    def start(self, *, plain: bool = False) -> Training:
        """Build a run; the same cell gives the same run, and its plain form the same numbers."""
        recipe = Scenario(
            self.model,
            self.optimizer,
            self.loss,
            rows=ROWS,
            eval_rows=EVAL_ROWS,
            other_rows=0,
            steps=STEPS,
            batch_size=BATCH,
            seed=self.seed,
        )
        return recipe.start(plain=plain)


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
            losses = SQUARED_LOSSES if number % 2 == 0 else model.losses
            rule = next(rules) if model.rules is None else draw.choice(model.rules)
            cells.append(Cell(model.name, rule, draw.choice(losses), *next(blocks), seed=number))
    return cells


def _endless(draw: random.Random, choices: Sequence[_T]) -> Iterator[_T]:
    """The choices over and over, each time in another order."""
    for _ in itertools.count():
        yield from draw.sample(choices, len(choices))


# ------------------------------------------------------------------------------------- checking


def compare(cell: Cell, attach: Attach) -> None:
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
    if cell.loss in SQUARED_LOSSES:
        quantities.append("constant")
    for moment in MOMENTS:
        run.run(reader, steps=moment - run.done)
        other.run(account, steps=moment - other.done)
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


def compare_predictions(model: ZooModel, attach: Attach) -> None:
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
        run.run(reader, steps=1)
        plain.load_state_dict(run.model.state_dict())
        moved, J_now = parameters_of(plain), jacobian(plain, run.eval_sets["test"], parameters)
        step = (J + J_now) @ (moved - theta) / 2
        expected, theta, J = expected + step.reshape(expected.shape), moved, J_now
    assert_agrees(
        reader.telescoped("test"), expected, tolerance=TOLERANCE, what=f"{cell}: telescoped"
    )


def require_refusal(model: ZooModel, refusal: Refusal, attach: Attach) -> TelescopeError:
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
            run.run(attach(run, cell), steps=_STEPS_BEFORE_REFUSAL)
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
