"""What a label is: targets as real numbers, and how the loss gradient depends on them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from telescope_core.losses.calls import Loss, push

__all__ = ["Labels", "Loss", "RealLabels"]


class Labels(ABC):
    r"""Targets as real-valued labels Y, and how the loss gradient depends on them.

    Attributes:
        width: Labels per training point.
    """

    width: int

    @abstractmethod
    def flat(self, targets: Tensor) -> Tensor:
        """Targets as labels of shape ``(rows, width)``, in the outputs' dtype."""

    @abstractmethod
    def mixed_derivative(self, outputs: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
        r"""``(∂g/∂Y) V_B``.

        Args:
            outputs: Network outputs in the model's shape.
            targets: The batch's targets as the loss sees them.
            columns: ``V_B``, shape ``(rows, width, m)``.

        Returns:
            Shape ``(rows, k, m)``.
        """

    def check(self, outputs: Tensor, targets: Tensor) -> None:  # noqa: B027
        """Refuse a batch on which the labels are not what they were taken for; none by default.

        Args:
            outputs: Network outputs in the model's shape.
            targets: The batch's targets as the loss sees them.
        """


class RealLabels(Labels):
    """Floating-point targets: every entry is a label.

    Args:
        loss: The training loss.
        outputs: Outputs of some rows, in the model's shape.
        targets: Their targets.
    """

    def __init__(self, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
        self._loss = loss
        self._dtype = outputs.dtype
        self.width = targets[0].numel()

    def flat(self, targets: Tensor) -> Tensor:  # noqa: D102
        return targets.reshape(len(targets), -1).to(self._dtype)

    def mixed_derivative(  # noqa: D102
        self, outputs: Tensor, targets: Tensor, columns: Tensor
    ) -> Tensor:
        targets = targets.to(outputs.dtype)
        directions = columns.reshape(*targets.shape, columns.shape[-1])
        product = push(self._loss, "targets", outputs, targets, directions)
        return product.reshape(len(outputs), -1, columns.shape[-1])
