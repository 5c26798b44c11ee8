"""The derivative of the loss gradient: how ``g = ∂loss/∂f`` reacts to outputs and labels."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_core.errors import LossError
from telescope_core.labels import (
    ClassLabels,
    Labels,
    Loss,
    RealLabels,
    push_by_double_backward,
)


class LossGradient:
    r"""``g(f, Y) = ∂loss/∂f`` on a batch and its Jacobian-vector products (MATH section 2).

    Outputs are handled flat, ``(rows, k)``; the loss sees them in the shape the model gives.

    Args:
        loss: The training loss.
        sample_outputs: Outputs of a few rows, in the model's shape.
        sample_targets: Their targets.

    Attributes:
        labels: What the labels are; class indices become weights of classes.
        is_quadratic: Whether g is affine in (f, Y), as for a squared loss.

    Raises:
        LossError: The loss does not return a differentiable finite scalar, or has no derivative
            with respect to class labels.
        ShapeError: Integer targets that are not class indices of the outputs.
    """

    def __init__(self, loss: Loss, sample_outputs: Tensor, sample_targets: Tensor) -> None:
        check_scalar(loss, sample_outputs, sample_targets)
        self._loss = loss
        self._output_shape = tuple(sample_outputs.shape[1:])
        outputs = sample_outputs.detach()
        kind = RealLabels if sample_targets.is_floating_point() else ClassLabels
        self.labels: Labels = kind(loss, outputs, sample_targets)
        self._forward_mode = self._has_forward_mode(outputs, sample_targets)
        self.is_quadratic: bool = isinstance(self.labels, RealLabels) and self._looks_quadratic(
            outputs, sample_targets.to(outputs.dtype)
        )
        self._scales: dict[int, Tensor | None] = {}

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``g`` of shape ``(rows, k)`` for flat outputs ``(rows, k)``."""
        gradient: Tensor = torch.func.grad(self._loss)(
            self._shaped(outputs), self._cast(targets, outputs)
        )
        return gradient.reshape(outputs.shape)

    def derivative(
        self, outputs: Tensor, targets: Tensor, output_columns: Tensor, label_columns: Tensor
    ) -> Tensor:
        r"""``δg = (∂g/∂f) S_B + (∂g/∂Y) V_B``.

        Args:
            outputs: Flat network outputs on the batch, ``(rows, k)``.
            targets: The batch's targets as the loss sees them.
            output_columns: ``S_B``, shape ``(rows, k, m)``.
            label_columns: ``V_B``, shape ``(rows, labels, m)``.

        Returns:
            Shape ``(rows, k, m)``.
        """
        shaped, targets = self._shaped(outputs), self._cast(targets, outputs)
        curvature = self._curvature(shaped, targets, output_columns)
        return curvature + self.labels.mixed_derivative(shaped, targets, label_columns)

    def affine_derivative(
        self, outputs: Tensor, targets: Tensor, columns: Tensor, labels: Tensor, linear: int
    ) -> Tensor:
        r"""δg for label directions, and g itself for columns that are predictions.

        A quadratic loss has ``g(f', Y') = g(f, Y) + (∂g/∂f)(f' − f) + (∂g/∂Y)(Y' − Y)`` exactly;
        columns from ``linear`` on are such ``f'`` and ``Y'``.

        Args:
            outputs: Flat network outputs, ``(rows, k)``.
            targets: The batch's targets.
            columns: Shape ``(rows, k, q)``.
            labels: Shape ``(rows, labels, q)``.
            linear: Number of leading columns that are directions.

        Returns:
            Shape ``(rows, k, q)``.
        """
        s, v = columns.clone(), labels.clone()
        s[..., linear:] -= outputs[..., None]
        v[..., linear:] -= self.labels.flat(targets)[..., None]
        dg = self.derivative(outputs, targets, s, v)
        dg[..., linear:] += self.gradient(outputs, targets)[..., None]
        return dg

    def known_scale(self, rows: int) -> Tensor | None:
        """The scale of batches of ``rows`` rows, if one was already found."""
        return self._scales.get(rows)

    def scale(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The number c with ``g = c (f − y)`` on batches of this size, if there is one."""
        if not self.is_quadratic or self.labels.width != outputs.shape[1]:
            return None
        rows = len(outputs)
        if rows not in self._scales:
            self._scales[rows] = self._find_scale(outputs, targets)
        return self._scales[rows]

    def _shaped(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(-1, *self._output_shape)

    def _cast(self, targets: Tensor, outputs: Tensor) -> Tensor:
        return targets.to(outputs.dtype) if targets.is_floating_point() else targets

    def _curvature(self, shaped: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
        """``(∂g/∂f) S`` for outputs in the model's shape, shape ``(rows, k, m)``."""
        directions = columns.reshape(*shaped.shape, columns.shape[-1])
        if self._forward_mode:
            product = self._curvature_forward(shaped, targets, directions)
        else:
            product = push_by_double_backward(self._loss, shaped, targets, directions, of="outputs")
        return product.reshape(columns.shape)

    def _curvature_forward(self, shaped: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
        def gradient(f: Tensor) -> Tensor:
            result: Tensor = torch.func.grad(self._loss)(f, targets)
            return result

        def push(direction: Tensor) -> Tensor:
            tangent: Tensor = torch.func.jvp(gradient, (shaped,), (direction,))[1]
            return tangent

        return torch.func.vmap(push, in_dims=-1, out_dims=-1)(directions)

    def _has_forward_mode(self, outputs: Tensor, targets: Tensor) -> bool:
        try:
            self._curvature_forward(
                outputs, self._cast(targets, outputs), torch.ones_like(outputs)[..., None]
            )
        except (NotImplementedError, RuntimeError):
            return False
        return True

    def _looks_quadratic(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether the derivative of g is the same at the sample and at two places far from it."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            drawn = torch.randn(*shape, generator=generator, dtype=outputs.dtype)
            return drawn.to(outputs.device)

        rows = len(outputs)
        s, v = normal(rows, outputs[0].numel(), 2), normal(rows, self.labels.width, 2)
        here = self.derivative(
            outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None], targets, s, v
        )
        tolerance = 1e3 * torch.finfo(outputs.dtype).eps * float(here.abs().max())
        for size in (1.0, 30.0):
            f = outputs + size * normal(*outputs.shape)
            y = targets + size * normal(*targets.shape)
            there = self.derivative(f.reshape(rows, -1), y, s, v)
            if float((there - here).abs().max()) > tolerance:
                return False
        return True

    def _find_scale(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """Read c off one entry of ∂g/∂f, and check that it explains g."""
        targets = self._cast(targets, outputs)
        unit = torch.zeros_like(outputs)[..., None]
        unit[0, 0] = 1
        scale = self._curvature(self._shaped(outputs), targets, unit)[0, 0, 0]
        labels = self.labels.flat(targets)
        gap = self.gradient(outputs, targets) - scale * (outputs - labels)
        tolerance = 1e3 * torch.finfo(outputs.dtype).eps
        bound = tolerance * float(scale.abs() * (outputs.abs().max() + labels.abs().max()))
        return scale if bool(gap.abs().max() <= bound) else None


def check_scalar(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that is not a finite, differentiable scalar on the sample.

    Raises:
        LossError: It fails, or returns anything else.
    """
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        try:
            value = loss(leaf, targets)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise LossError(
                f"the loss failed on outputs {tuple(outputs.shape)} {outputs.dtype} and targets "
                f"{tuple(targets.shape)} {targets.dtype}: {error}; pass the very callable used "
                "for training, loss(outputs, targets) -> scalar"
            ) from error
        if not isinstance(value, Tensor) or value.ndim != 0:
            given = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise LossError(
                f"the loss returned {given}, expected a scalar tensor; reduce it, e.g. by "
                "reduction='mean'"
            )
        if not value.requires_grad:
            raise LossError(
                "the loss does not depend on the outputs through differentiable operations; "
                "check for .detach(), .item() or integer arithmetic in it"
            )
        if not bool(torch.isfinite(value)):
            raise LossError(
                f"the loss is {value.item()} on the first rows of the training set; "
                "expected a finite number: check inputs, targets and initialisation"
            )
