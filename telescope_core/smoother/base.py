"""What every engine of the smoother can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from telescope_core.errors import ConfigurationError
from telescope_core.jacobians import LinearizedRows
from telescope_core.probes import Directions
from telescope_core.smoother.blocks import Batch, Span
from telescope_core.smoother.gradient_check import GradientCheck, SeenGradient
from telescope_core.smoother.low_rank import LowRankSmoother
from telescope_core.smoother.problem import Problem
from telescope_core.update_rules import UpdateRule

State = Mapping[str, LinearizedRows]
"""Per set name, its rows linearised at one θ."""

Spans = Mapping[str, Span]
"""Per set name, its rows over the open block."""


class Smoother(ABC):
    r"""Derivatives ``S_t(x)`` of the telescoped predictions along label directions V.

    For quadratic losses two more columns follow those of V, which start at ``θ_0`` and ``f_{θ_0}``
    instead of 0: the constant path c, to which no label contributes, and the affine prediction
    ``S·Y + c`` itself, whose label column is Y (so it is known without the exact S).

    Attributes:
        gradient_check: Compares the optimizer's gradients with the batch's own.
        affine_columns: 2 for quadratic losses (c and S·Y + c), 0 otherwise.
        columns: Columns carried in all.
        marks_gradients: Whether :class:`SeenGradient` must say if gradients were written to.
    """

    marks_gradients: ClassVar[bool] = False

    def __init__(self, problem: Problem, directions: Directions) -> None:
        self.directions = directions
        self.labels = problem.labels
        self.loss = problem.loss
        self.gradient_check = GradientCheck(problem.eps, problem.layout)
        self.affine_columns = problem.affine_columns
        self.columns = directions.count + self.affine_columns
        self._initial = problem.initial

    @classmethod
    @abstractmethod
    def entries(cls, problem: Problem, directions: int) -> int:
        """Entries of all arrays that are alive at once, with so many label directions."""

    @classmethod
    def reason_against(cls, problem: Problem) -> str | None:
        """Why the engine cannot carry any run of this problem, as a message, if it cannot."""
        return None

    @classmethod
    def suits(cls, problem: Problem, first: Batch) -> bool:
        """Whether a run that starts with this batch looks like one that the engine is for."""
        return True

    @property
    @abstractmethod
    def name(self) -> str:
        """How a user names the engine."""

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

    def leave_out(self) -> None:  # noqa: B027  # most carry nothing but what the optimizer moves
        """Follow a step in which a fused optimizer will move nothing (``GradScaler``)."""

    @abstractmethod
    def close_block(self, spans: Spans) -> None:
        """End the block at the current θ, where every set was linearised anew."""

    @abstractmethod
    def values(self, name: str, spans: Spans) -> Tensor:
        """All carried columns on a set, shape ``(rows, k, columns)``, the open block closed."""

    def values_end_to_end(self, name: str, spans: Spans) -> Tensor:
        """``J(θ_t) A_t`` on a set, the tangent of the network as it is now, ``(rows, k, m)``.

        Raises:
            ConfigurationError: The engine does not carry A.
        """
        raise ConfigurationError(
            f"reading='end-to-end' needs columns of the parameters, which {self.name!r} does not "
            "carry; create the lens with strategy='parameter-space'"
        )

    def values_by_layer(self, name: str, spans: Spans) -> Tensor:
        """What each layer has contributed to S on a set, ``(layers, rows, k, columns)``."""
        raise NotImplementedError

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""

    @abstractmethod
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""

    @property
    def unfollowed_names(self) -> tuple[str, ...]:
        """What the model moves beside its trained parameters where no derivative follows."""
        return ()

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
