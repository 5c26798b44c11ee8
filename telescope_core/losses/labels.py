"""What a label is: targets as real numbers, and how the loss gradient depends on them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override

from telescope_core.losses.calls import Loss, push


class Labels(ABC):
    r"""Targets as real-valued labels Y, and how the loss gradient depends on them.

    Attributes:
        width: Labels per training point.
        class_axis: The dimension of a row's outputs that runs over classes, if they are classes.
    """

    width: int
    class_axis: int = 0

    @abstractmethod
    def flat(self, targets: Tensor) -> Tensor:
        """Targets as labels of shape ``(rows, width)``, in the outputs' dtype."""

    @abstractmethod
    def mixed_derivative(self, outputs: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
        """``(∂g/∂Y) V_B`` for V_B of shape ``(rows, width, m)``, shape ``(rows, k, m)``."""

    def counted(self, labels: Tensor) -> Tensor | None:  # noqa: B027
        """Which outputs have a label that counts, ``(rows, k)``; ``None`` where all do.

        Args:
            labels: As :meth:`flat` gives them.
        """

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: B027
        """Refuse a batch on which the labels are not what they were taken for; none by default."""


class RealLabels(Labels):
    """Floating-point targets: every entry is a label."""

    def __init__(self, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
        self._loss = loss
        self._dtype = outputs.dtype
        self.width = targets[0].numel()

    @override
    def flat(self, targets: Tensor) -> Tensor:
        return targets.reshape(len(targets), -1).to(self._dtype)

    @override
    def mixed_derivative(self, outputs: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
        targets = targets.to(outputs.dtype)
        directions = columns.reshape(*targets.shape, columns.shape[-1])
        product = push(self._loss, "targets", outputs, targets, directions)
        return product.reshape(len(outputs), -1, columns.shape[-1])
