"""An optimizer's update as a linear map of gradient columns, its preconditioner held fixed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from telescope_core.errors import TrainingMismatchError, UnsupportedOptimizerError
from telescope_core.network.layout import ParameterLayout, Segment

# Several operations on a part follow each other while it is in a cache.
_PART_BYTES = 2**20


@dataclass(frozen=True)
class Slot:
    """One parameter as its optimizer sees it.

    Attributes:
        segment: Its rows in flat arrays.
        parameter: The parameter itself, the key of ``optimizer.state``.
        group: Index of its parameter group.
    """

    segment: Segment
    parameter: Tensor
    group: int


@dataclass(frozen=True)
class Recursion:
    """A step as ``M ← memory · M + gain · G``, ``Δθ = −P (momentum_rate · M + gradient_rate · G)``.

    Attributes:
        memory: What is left of M.
        gain: The weight of G in M.
        momentum_rate: The step along M.
        gradient_rate: The step along G.
    """

    memory: float
    gain: float
    momentum_rate: float
    gradient_rate: float


class UpdateRule(ABC):
    r"""Pushes derivatives of the parameter gradient through an optimizer.

    Every step of the optimizer computes ``Δθ`` from the gradient ``G``, from θ (weight decay) and
    from its own buffers.  With adaptive denominators held at their actual values this map is
    linear, so the same lines applied to ``δG`` and ``A`` give ``ΔA`` (docs/mathematics.md, section
    3.2).  Hyperparameters are read from the parameter groups at every step.

    A rule of one's own (:func:`telescope_core.update_rules.register_rule`) goes over
    :meth:`active` parameters in :meth:`push`, reads the optimizer's state by :meth:`state_of`, and
    keeps what it must remember of the columns in buffers: made by :meth:`seed_buffer`, found by
    :meth:`buffer` and saved with the lens.

    Args:
        optimizer: The optimizer in use.
        layout: Order of the trained parameters.
        parameters: The trained parameters by name.
        columns: Number of columns carried.
        affine_columns: How many of the last columns follow the parameters themselves; their
            buffers start at the optimizer's own.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        layout: ParameterLayout,
        parameters: dict[str, Tensor],
        columns: int,
        affine_columns: int,
    ) -> None:
        self.optimizer = optimizer
        self.layout = layout
        self.columns = columns
        self.affine_columns = affine_columns
        self.slots: tuple[Slot, ...] = tuple(_slots(optimizer, layout, parameters))
        self._buffers: dict[str, Tensor] = {}

    def before_update(self) -> None:  # noqa: B027  # most rules keep no buffers to reset
        """Look at the optimizer's state right before its step, e.g. whether it was reset."""

    def follow_denominators(self) -> None:
        """Hold nothing fixed from now on, so that columns are exact derivatives of the steps.

        Called before the first step, where the curvature of the network is followed, too; then
        :meth:`look_at` is told the gradient of every step.  A rule that neglects nothing anyway
        says so by :attr:`is_linear`.

        Raises:
            UnsupportedOptimizerError: The rule has no exact form.
        """
        if not self.is_linear:
            raise UnsupportedOptimizerError(
                f"curvature='full' needs the exact derivative of {type(self.optimizer).__name__}'s "
                f"step, and {type(self).__name__} {self.why_not_exact}; use "
                "curvature='gauss-newton'"
            )

    def look_at(self, gradient: Tensor) -> None:  # noqa: B027  # linear rules need not look
        """Take note of θ and the gradient ``(p,)`` right before a step, to follow denominators."""

    def borrow(self, other: UpdateRule) -> None:  # noqa: B027  # most rules compute little
        """Take over, for the next push, what another rule computed in its push of this very step.

        Args:
            other: A rule of the same class and optimizer, which has pushed already.
        """

    @abstractmethod
    def push(self, gradient: Tensor, path: Tensor, skipped: frozenset[str]) -> None:
        """Advance ``path`` by one step of the optimizer, in place.

        Called right after ``optimizer.step()``, when the optimizer's state is the one it used.

        Args:
            gradient: ``δG_t``, shape ``(p, columns)``; overwritten.
            path: ``A_{t−1}``, shape ``(p, columns)``; becomes ``A_t``.  Where the rule does not
                read it (:attr:`reads_position`), it may differ from that by a constant.
            skipped: Parameters that had no gradient, which torch leaves alone.
        """

    @abstractmethod
    def preconditioner(self) -> Tensor | None:
        """Diagonal of the last step's frozen preconditioner, ``(p,)``; None for the identity."""

    def recursion(self) -> Recursion | None:
        """The last step as a recursion with the preconditioner apart, where there is one.

        Used to lower the variance of estimates, so it may neglect weight decay and what differs
        between parameter groups: the first group stands for all.

        Returns:
            The recursion of the first group; None for a rule that is not of this form.
        """
        return None

    def exact_recursion(self) -> Recursion | None:
        """The options in use as a recursion that holds for every parameter and neglects nothing.

        Returns:
            The recursion with the identity for P; None for a rule or options that have none.
        """
        return None

    @property
    def has_begun(self) -> bool:
        """Whether the optimizer remembers an earlier step of some parameter."""
        held = (self.optimizer.state.get(slot.parameter, {}) for slot in self.slots)
        return any(value is not None for state in held for value in state.values())

    @property
    def reads_position(self) -> bool:
        """Whether ``ΔA`` depends on ``A_{t−1}`` itself, as with weight decay.

        Safe to leave at True; False allows engines to keep displacements only.
        """
        return True

    @property
    def is_linear(self) -> bool:
        """Whether :meth:`push` is the whole derivative of the step: nothing is held fixed."""
        return False

    @property
    def denominator_columns(self) -> int:
        """Arrays of the size of the columns that following denominators takes."""
        return 0

    @property
    def why_not_exact(self) -> str:
        """Why there is no exact form, as the end of a sentence about the rule."""
        return (
            "does not say that it is linear in the gradients (is_linear), nor how denominators are "
            "followed (follow_denominators)"
        )

    @property
    def is_plain(self) -> bool:
        """Whether a step is ``θ − γ G`` with one γ for all parameters and nothing else."""
        return False

    @property
    def learning_rate(self) -> float:
        """γ of the first parameter group, as it is now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def require_plain(self) -> None:
        """Refuse to go on once the steps are no longer plain.

        Raises:
            TrainingMismatchError: Momentum, decay or several learning rates were switched on.
        """
        if not self.is_plain:
            raise TrainingMismatchError(
                f"{type(self.optimizer).__name__} no longer takes plain steps θ − γG (momentum, "
                "weight decay, maximize or several learning rates were set during training), as "
                "strategy='function-space' needs; create the lens with "
                "strategy='parameter-space'"
            )

    def buffers(self) -> dict[str, Tensor]:
        """Momentum buffers by name, for checkpoints."""
        return dict(self._buffers)

    def load_buffers(self, buffers: dict[str, Tensor]) -> None:
        """Take over buffers from :meth:`buffers` of an equal rule."""
        self._buffers = {name: tensor.clone() for name, tensor in buffers.items()}

    def parts(self, slot: Slot) -> Iterator[slice]:
        """A slot's rows, counted from its first, in parts that stay in a cache."""
        step = max(1, _PART_BYTES // max(1, self.columns * self.layout.dtype.itemsize))
        for start in range(0, slot.segment.size, step):
            yield slice(start, min(start + step, slot.segment.size))

    def active(self, skipped: frozenset[str]) -> Iterator[tuple[Slot, dict[str, Any]]]:
        """The parameters that the step has moved, each with the options of its group."""
        for slot in self.slots:
            if slot.segment.name not in skipped:
                yield slot, self.optimizer.param_groups[slot.group]

    def state_of(self, slot: Slot, key: str) -> Tensor | None:
        """An entry of the optimizer's state as flat rows ``(size,)``; ``None`` if not there."""
        value = self.optimizer.state.get(slot.parameter, {}).get(key)
        return None if value is None else self.layout.rows_of(slot.segment, value.detach())

    def inverse(self, key: str, denominator: Callable[[Slot, dict[str, Any]], Tensor]) -> Tensor:
        """``1/φ`` of every parameter, ``(p,)``; 1 where the state has no entry ``key`` yet."""
        result = torch.ones(self.layout.size, dtype=self.layout.dtype)
        result = result.to(self.slots[0].parameter.device)
        for slot, group in self.active(frozenset()):
            if self.state_of(slot, key) is not None:
                result[slot.segment.rows] = 1 / denominator(slot, group)
        return result

    def buffer(self, name: str, slot: Slot) -> Tensor | None:
        """A buffer of a parameter, shape ``(size, columns)``; ``None`` before it is seeded."""
        return self._buffers.get(_key(name, slot))

    def seed_buffer(self, name: str, slot: Slot, key: str) -> Tensor:
        """Make a buffer of zeros anew; its affine columns start at the optimizer's own.

        Args:
            name: Of the buffer, in checkpoints.
            slot: The parameter.
            key: The buffer's own name in the optimizer's state.

        Returns:
            Shape ``(size, columns)``, to be changed in place.
        """
        shape = (slot.segment.size, self.columns)
        buffer = torch.zeros(shape, dtype=self.layout.dtype, device=slot.parameter.device)
        existing = self.state_of(slot, key)
        if existing is not None:
            buffer[:, self.columns - self.affine_columns :] = existing[:, None]
        self._buffers[_key(name, slot)] = buffer
        return buffer

    def drop_buffer(self, name: str, slot: Slot) -> None:
        """Forget a buffer, as the optimizer did with its own."""
        self._buffers.pop(_key(name, slot), None)


class DecayingRule(UpdateRule):
    """Rules of optimizers whose groups have ``maximize`` and a ``weight_decay``."""

    @property
    def reads_position(self) -> bool:
        """Whether some group decays weights, as the groups are now."""
        return any(group.get("weight_decay") for group in self.optimizer.param_groups)

    @staticmethod
    def decay(G: Tensor, A: Tensor, group: dict[str, Any]) -> None:
        """``G ← ±G + λA``, in place."""
        if group["maximize"]:
            G.neg_()
        if group["weight_decay"]:
            G.add_(A, alpha=float(group["weight_decay"]))

    @staticmethod
    def sign(group: dict[str, Any]) -> float:
        """−1 for a group that is maximised."""
        return -1.0 if group["maximize"] else 1.0


def _key(name: str, slot: Slot) -> str:
    return f"{name}/{slot.segment.name}"


def _slots(
    optimizer: torch.optim.Optimizer, layout: ParameterLayout, parameters: dict[str, Tensor]
) -> Iterator[Slot]:
    names = {id(parameter): name for name, parameter in parameters.items()}
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name in layout.by_name:
                yield Slot(layout.by_name[name], parameter, index)
