"""What a label is: a real number, or a class given by its index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from telescope_core.errors import LossError, ShapeError

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(outputs, targets) -> scalar``, exactly as it is used for training."""


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


class RealLabels(Labels):
    """Floating-point targets: every entry is a label.

    Args:
        loss: The training loss.
        outputs: Outputs of a few rows, in the model's shape.
        targets: Their targets.
    """

    def __init__(self, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
        self._loss = loss
        self._dtype = outputs.dtype
        self.width = targets[0].numel()
        self._forward_mode = True
        ones = torch.ones(len(targets), self.width, 1, dtype=outputs.dtype, device=outputs.device)
        try:
            self._push_forward(outputs, targets.to(outputs.dtype), ones)
        except (NotImplementedError, RuntimeError):
            self._forward_mode = False

    def flat(self, targets: Tensor) -> Tensor:  # noqa: D102
        return targets.reshape(len(targets), -1).to(self._dtype)

    def mixed_derivative(  # noqa: D102
        self, outputs: Tensor, targets: Tensor, columns: Tensor
    ) -> Tensor:
        targets = targets.to(outputs.dtype)
        push = self._push_forward if self._forward_mode else self._push_double_backward
        return push(outputs, targets, columns).reshape(len(outputs), -1, columns.shape[-1])

    def _push_forward(self, outputs: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
        def gradient(y: Tensor) -> Tensor:
            result: Tensor = torch.func.grad(self._loss)(outputs, y)
            return result

        def push(direction: Tensor) -> Tensor:
            tangent: Tensor = torch.func.jvp(
                gradient, (targets,), (direction.reshape(targets.shape),)
            )[1]
            return tangent

        return torch.func.vmap(push, in_dims=-1, out_dims=-1)(columns)

    def _push_double_backward(self, outputs: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
        directions = columns.reshape(*targets.shape, columns.shape[-1])
        return push_by_double_backward(self._loss, outputs, targets, directions, of="targets")


class ClassLabels(Labels):
    r"""Class indices: label (i, c) is the weight that point i gives to class c.

    Where the loss accepts class probabilities with the same value, its own extension to class
    weights is used.  Any other loss of class indices extends linearly,
    ``g(f, Y) = Σ_c Y_c · g(f, c)``, so that its derivative with respect to Y is the gradient for
    each class in turn.

    Args:
        loss: The training loss.
        outputs: Outputs of a few rows, in the model's shape: ``(rows, classes)``, or with
            positions ``(rows, positions, classes)`` or ``(rows, classes, positions)``.
        targets: Their class indices, ``(rows,)`` or ``(rows, positions)``.

    Raises:
        ShapeError: The targets are not class indices of the outputs.
        LossError: The loss does not add up over points.
    """

    def __init__(self, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
        self._loss = loss
        self._dtype = outputs.dtype
        self.width = outputs[0].numel()
        self.classes = _count_classes(outputs, targets)
        positions = tuple(targets.shape[1:])
        self._class_first = bool(positions) and outputs.shape[1:] == (self.classes, *positions)
        self._probabilities = self._as_probabilities(outputs, targets)
        if self._probabilities is not None:
            return
        if not self._adds_up(outputs, targets) and positions:
            self._class_first = not self._class_first
        if not self._adds_up(outputs, targets):
            raise LossError(
                "targets are class indices, but the gradient of the loss for one point depends on "
                "the labels of others (class weights with reduction='mean'?), so it has no "
                "derivative with respect to the labels; use reduction='sum' divided by the batch "
                "size, pass class probabilities as targets, or probes=None"
            )

    def flat(self, targets: Tensor) -> Tensor:  # noqa: D102
        if targets.is_floating_point():
            return targets.reshape(len(targets), -1).to(self._dtype)
        least, most = int(targets.min()), int(targets.max())
        if least < 0 or most >= self.classes:
            raise ShapeError(
                f"targets hold the class indices {least}…{most}, the outputs {self.classes} "
                f"classes; expected indices in 0…{self.classes - 1} (rows to be ignored must be "
                "left out of the training set)"
            )
        one_hot = torch.nn.functional.one_hot(targets.long(), self.classes)
        if self._class_first:
            one_hot = one_hot.movedim(-1, 1)
        return one_hot.reshape(len(targets), -1).to(self._dtype)

    def mixed_derivative(  # noqa: D102
        self, outputs: Tensor, targets: Tensor, columns: Tensor
    ) -> Tensor:
        rows, m = len(outputs), columns.shape[-1]
        if self._probabilities is not None:
            weights = self.flat(targets).reshape(outputs.shape)
            return self._probabilities.mixed_derivative(outputs, weights, columns)
        gradients = self._gradients(outputs, targets)  # (rows, positions, class of label, class)
        V = self._by_position(columns)  # (rows, positions, class, m)
        product = gradients.transpose(2, 3) @ V
        if self._class_first:
            product = product.transpose(1, 2)
        return product.reshape(rows, -1, m)

    def _as_probabilities(self, outputs: Tensor, targets: Tensor) -> RealLabels | None:
        """The labels as probabilities, if the loss accepts them with the same value."""
        weights = self.flat(targets).reshape(outputs.shape)
        try:
            value, same = self._loss(outputs, targets), self._loss(outputs, weights)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None
        tolerance = 1e3 * torch.finfo(self._dtype).eps
        if same.shape != value.shape or not bool(torch.isclose(same, value, rtol=tolerance)):
            return None
        return RealLabels(self._loss, outputs, weights)

    def _gradients(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``g(f, c)`` with every label set to c, for each class c."""
        gradient = torch.func.grad(self._loss)
        per_class = [
            self._by_position(gradient(outputs, torch.full_like(targets, c)).flatten(1)[..., None])
            for c in range(self.classes)
        ]
        return torch.cat(per_class, dim=-1).transpose(2, 3)

    def _by_position(self, columns: Tensor) -> Tensor:
        """``(rows, k, m)`` as ``(rows, positions, classes, m)``."""
        rows, k, m = columns.shape
        positions = k // self.classes
        if self._class_first:
            return columns.reshape(rows, self.classes, positions, m).transpose(1, 2)
        return columns.reshape(rows, positions, self.classes, m)

    def _adds_up(self, outputs: Tensor, targets: Tensor) -> bool:
        actual = torch.func.grad(self._loss)(outputs, targets).flatten(1)[..., None]
        own = self.flat(targets)[..., None]
        gradients, weights = self._gradients(outputs, targets), self._by_position(own)
        explained = (gradients * weights).sum(2)
        gap = (self._by_position(actual)[..., 0] - explained).abs().max()
        return bool(gap <= 1e3 * torch.finfo(self._dtype).eps * actual.abs().max())


def push_by_double_backward(
    loss: Loss, outputs: Tensor, targets: Tensor, directions: Tensor, *, of: str
) -> Tensor:
    r"""A product with ``∂g/∂f`` or ``∂g/∂Y`` for losses without forward mode.

    ``u ↦ (∂g/∂·)ᵀ u`` is linear in u; its vjp is the product.

    Args:
        loss: The training loss.
        outputs: Network outputs.
        targets: Targets.
        directions: Shape of ``outputs`` or ``targets`` with a trailing m.
        of: ``"outputs"`` or ``"targets"``.

    Returns:
        Shape of ``outputs`` with a trailing m.
    """
    with torch.enable_grad():
        f = outputs.detach().requires_grad_()
        y = targets.detach()
        y = y.requires_grad_() if of == "targets" else y
        (g,) = torch.autograd.grad(loss(f, y), f, create_graph=True)
        nothing = torch.zeros(*outputs.shape, directions.shape[-1], dtype=outputs.dtype)
        nothing = nothing.to(outputs.device)
        if not g.requires_grad:
            return nothing
        u = torch.zeros_like(g, requires_grad=True)
        (pulled,) = torch.autograd.grad(
            g, (f if of == "outputs" else y,), u, create_graph=True, allow_unused=True
        )
        if pulled is None or not pulled.requires_grad:
            return nothing
        (result,) = torch.autograd.grad(pulled, u, directions.movedim(-1, 0), is_grads_batched=True)
    return result.movedim(0, -1).detach()


def _count_classes(outputs: Tensor, targets: Tensor) -> int:
    positions = targets[0].numel()
    classes = outputs[0].numel() // positions
    tail, shape = tuple(targets.shape[1:]), tuple(outputs.shape[1:])
    if classes < 2 or shape not in ((*tail, classes), (classes, *tail)):
        raise ShapeError(
            f"targets have dtype {targets.dtype} and shape {tuple(targets.shape)} for outputs of "
            f"shape {tuple(outputs.shape)}; expected class indices (n,) with outputs (n, classes), "
            "or floating-point targets"
        )
    return int(classes)
