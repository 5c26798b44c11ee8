"""What every engine of the smoother can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from telescope_core.jacobians import Linearization, Linearizer
from telescope_core.jacobians.rows import LinearizedRows
from telescope_core.losses.gradient import LossGradient
from telescope_core.network.inputs import Rows
from telescope_core.probes import LabelDirections
from telescope_core.smoother.gradient_check import GradientCheck, SeenGradient
from telescope_core.smoother.low_rank import LowRankSmoother
from telescope_core.smoother.span import Span
from telescope_core.update_rules import UpdateRule

State = Mapping[str, LinearizedRows]
"""Per set name, its rows linearised at one θ."""

Spans = Mapping[str, Span]
"""Per set name, its rows over the open block."""


class Batch:
    """One training batch as the model sees it; Jacobians are taken only when asked for.

    Args:
        index: Positions in the training set, int64, shape ``(b,)``.
        inputs: Gives the rows as the model sees them.
        targets: Targets as the loss sees them.
        labels: The same as real-valued labels, ``(b, label_width)``.
        linearizer: The model.
        theta: Gives ``θ_{t−1}``, shape ``(p,)``; not called once the parameters have moved.
        block_start: The training set linearised at the start of the block.
        at_block_start: Whether no step was taken in the block yet.
        stored: Whether the inputs are the training set's own rows.
    """

    def __init__(
        self,
        index: Tensor,
        inputs: Callable[[], Rows],
        targets: Tensor,
        labels: Tensor,
        *,
        linearizer: Linearizer,
        theta: Callable[[], Tensor],
        block_start: LinearizedRows,
        at_block_start: bool,
        stored: bool,
    ) -> None:
        self.index = index
        self.targets = targets
        self.labels = labels
        self._take_inputs = inputs
        self._linearizer = linearizer
        self._take_theta = theta
        self._block_start = block_start
        self._at_block_start = at_block_start
        self.stored = stored

    @cached_property
    def inputs(self) -> Rows:
        """The rows as the model sees them."""
        return self._take_inputs()

    @cached_property
    def _theta(self) -> Tensor:
        return self._take_theta()

    @cached_property
    def before(self) -> Linearization:
        """The stored rows linearised at the start of the block, as the block before closed."""
        return self._block_start.rows(self.index)

    @cached_property
    def start(self) -> Linearization:
        """The batch rows linearised at the start of the block."""
        if self.stored:
            return self.before
        return self._linearizer.linearize(self._block_start.theta, self.inputs)

    @cached_property
    def now(self) -> Linearization:
        """The batch rows linearised at ``θ_{t−1}``."""
        if self._at_block_start:
            return self.start
        return self._linearizer.linearize(self._theta, self.inputs)

    @cached_property
    def midpoint(self) -> Linearization:
        """The batch rows linearised half-way between the start of the block and now."""
        if self._at_block_start:
            return self.start
        return self._linearizer.linearize(
            0.5 * (self._block_start.theta + self._theta), self.inputs
        )


class Smoother(ABC):
    r"""Derivatives ``S_t(x)`` of the telescoped predictions along label directions V.

    For quadratic losses two more columns follow those of V, which start at ``θ_0`` and ``f_{θ_0}``
    instead of 0: the constant path c, to which no label contributes, and the affine prediction
    ``S·Y + c`` itself, whose label column is Y (so it is known without the exact S).

    Args:
        directions: The label directions.
        labels: Stored labels Y, shape ``(n, label_width)``.
        loss: The loss gradient.
        initial: Per set, the outputs ``f_{θ_0}``, shape ``(rows, k)``.
        gradient_check: Compares the optimizer's gradients with the batch's own.

    Attributes:
        name: How a user names the engine.
        gradient_check: Compares the optimizer's gradients with the batch's own.
        marks_gradients: Whether :class:`SeenGradient` must say if gradients were written to.
    """

    name: ClassVar[str]
    marks_gradients: ClassVar[bool] = False

    def __init__(
        self,
        directions: LabelDirections,
        labels: Tensor,
        loss: LossGradient,
        initial: Mapping[str, Tensor],
        gradient_check: GradientCheck,
    ) -> None:
        self.directions = directions
        self.labels = labels
        self.loss = loss
        self.gradient_check = gradient_check
        self._initial = initial

    @property
    def affine_columns(self) -> int:
        """2 for quadratic losses (c and S·Y + c), 0 otherwise."""
        return 2 if self.loss.is_quadratic else 0

    @property
    def columns(self) -> int:
        """Columns carried in all."""
        return self.directions.count + self.affine_columns

    @abstractmethod
    def open_block(self, at_start: State) -> None:
        """Start a block with every set linearised at the current θ."""

    @abstractmethod
    def before_step(self, batch: Batch) -> None:
        """Take in a batch while the parameters are still ``θ_{t−1}``."""

    @abstractmethod
    def before_update(self, seen: SeenGradient) -> None:
        """Compare the gradient the optimizer is about to use with the batch's own.

        Raises:
            TrainingMismatchError: It belongs to another batch or another loss.
        """

    @abstractmethod
    def after_update(self, skipped: frozenset[str]) -> None:
        """Follow the optimizer, right after its step; ``skipped`` names parameters without grad."""

    @abstractmethod
    def close_block(self, spans: Spans) -> None:
        """End the block at the current θ, where every set was linearised anew."""

    @abstractmethod
    def values(self, name: str, spans: Spans) -> Tensor:
        """All carried columns on a set, shape ``(rows, k, columns)``, the open block closed."""

    def values_by_layer(self, name: str, spans: Spans) -> Tensor:
        """What each layer has contributed to S on a set, ``(layers, rows, k, columns)``."""
        raise NotImplementedError

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""

    def rule_in_use(self) -> UpdateRule | None:
        """The optimizer's rule that has pushed the columns in the last step, if it did."""
        return None

    def model(self, name: str) -> LowRankSmoother | None:
        """``Ŝ`` on a set, to estimate differences from; ``None`` where there is none."""
        return None

    def initial_values(self) -> dict[str, Tensor]:
        """``S_0``: zero along labels, ``f_{θ_0}`` on the affine columns."""
        values = {}
        for name, outputs in self._initial.items():
            values[name] = outputs.new_zeros(*outputs.shape, self.columns)
            values[name][..., self.directions.count :] = outputs[..., None]
        return values

    def label_columns(self, index: Tensor, seen: Tensor) -> Tensor:
        """What each column says about the labels of some points.

        Args:
            index: Training points, shape ``(b,)``.
            seen: Their labels as the loss sees them, ``(b, label_width)``.

        Returns:
            ``V_B`` followed by the labels' share of c (what differs from the stored labels) and
            of ``S·Y + c`` (all of them), shape ``(b, label_width, columns)``.
        """
        V_B = self.directions.rows(index)
        if not self.affine_columns:
            return V_B
        affine = torch.stack([seen - self.labels[index], seen], dim=-1)
        return torch.cat([V_B, affine], dim=-1)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with ``prefix``, named without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
