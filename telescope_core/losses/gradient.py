"""The derivative of the loss gradient: how ``g = ∂loss/∂f`` reacts to outputs and labels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from telescope_core.errors import LossError, NonFiniteError
from telescope_core.losses.calls import (
    Loss,
    check_scalar,
    evaluate,
    gradient_of,
    leaves_of,
    push,
)
from telescope_core.losses.class_labels import ClassLabels
from telescope_core.losses.examination import check_deterministic, check_followed
from telescope_core.losses.examined_rows import examined_rows
from telescope_core.losses.labels import Labels, RealLabels
from telescope_core.losses.quadratic import (
    ScaleProbe,
    is_affine,
    is_affine_on_a_line,
    magnitude_of,
)
from telescope_core.losses.recognition import chosen, recognise
from telescope_core.losses.response import Response, ResponseSetting

__all__ = ["LossGradient", "check_scalar", "leaves_of"]


class LossGradient:
    r"""``g(f, Y) = ∂loss/∂f`` on a batch and its Jacobian-vector products.

    What the smoother needs of a loss (docs/mathematics.md, section 3.1).  Outputs are handled flat,
    ``(rows, k)``; the loss sees copies of them in the shape the model gives.

    Args:
        loss: The training loss.
        outputs: ``f_{θ_0}`` of all training rows, in the model's shape.
        targets: All training targets; the loss is examined on a bounded number of rows that
            hold every class as far as possible.
        response: What the outputs stand for, if it is not to be recognised.

    Attributes:
        labels: What the labels are; class indices become weights of classes.
        is_quadratic: Whether g is affine in (f, Y) everywhere, as for a squared loss.
        response: The map from outputs to predicted means; ``None`` if the loss tells none.

    Raises:
        ConfigurationError: The response contradicts the loss, or does not suit the outputs.
        LossError: The loss does not return a differentiable finite scalar, is random, cannot be
            differentiated twice, hides from differentiation what g depends on, or has no
            derivative with respect to class labels.
        ShapeError: Integer targets that are not class indices of the outputs.
    """

    def __init__(
        self, loss: Loss, outputs: Tensor, targets: Tensor, response: ResponseSetting = "auto"
    ) -> None:
        self._loss = loss
        self._output_shape = tuple(outputs.shape[1:])
        rows = examined_rows(targets, outputs[0].numel())
        f, y = outputs.detach()[rows], self._cast(targets.detach()[rows], outputs)
        check_scalar(loss, f, y)
        check_deterministic(loss, f, y)
        self.labels: Labels = (
            RealLabels(loss, f, y) if y.is_floating_point() else ClassLabels(loss, f, y, targets)
        )
        self._try_derivative(f[:8], y[:8])
        real = isinstance(self.labels, RealLabels)
        for argument in ("outputs", "targets") if real else ("outputs",):
            check_followed(loss, f[:16], y[:16], argument)
        self.is_quadratic: bool = real and is_affine(partial(gradient_of, loss), f, y)
        found = recognise(loss, f, y, self.labels, is_quadratic=self.is_quadratic)
        self.response: Response | None = chosen(response, found, f, self.labels)
        self._generator = torch.Generator().manual_seed(1)
        self._scale_probe = (
            ScaleProbe(loss, f, magnitude_of(f, y))
            if self.is_quadratic and self.labels.width == f[0].numel()
            else None
        )

    def gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``g`` of shape ``(rows, k)`` for flat outputs ``(rows, k)``."""
        g = gradient_of(self._loss, self._shaped(outputs), self._cast(targets, outputs))
        return g.reshape(outputs.shape)

    def derivative(
        self, outputs: Tensor, targets: Tensor, output_columns: Tensor, label_columns: Tensor
    ) -> Tensor:
        r"""``δg = (∂g/∂f) S_B + (∂g/∂Y) V_B`` for flat outputs.

        Returns:
            δg, shape ``(rows, k, m)``.

        Raises:
            LossError: The loss fails on this batch.
        """
        shaped, targets = self._shaped(outputs), self._cast(targets, outputs)
        directions = output_columns.reshape(*shaped.shape, output_columns.shape[-1])
        curvature = push(self._loss, "outputs", shaped, targets, directions)
        mixed = self.labels.mixed_derivative(shaped, targets, label_columns)
        return curvature.reshape(output_columns.shape) + mixed

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
            δg in the first ``linear`` columns and g' in the others, shape ``(rows, k, q)``.
        """
        s, v = columns.clone(), labels.clone()
        s[..., linear:] -= outputs[..., None]
        v[..., linear:] -= self.labels.flat(targets)[..., None]
        dg = self.derivative(outputs, targets, s, v)
        dg[..., linear:] += self.gradient(outputs, targets)[..., None]
        return dg

    def scale(self, targets: Tensor) -> float | None:
        r"""The number c with ``g(f, y) = c (f − y)`` on a batch with these targets.

        It is found anew at every call, so that a loss whose weight changes is followed.

        Returns:
            The number; None if the gradient is not of this form.

        Raises:
            LossError: The loss fails on these targets.
        """
        if self._scale_probe is None:
            return None
        return self._scale_probe.scale(targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse a batch on which the loss is not what it was taken for at attach.

        It costs a forward pass of the loss and, for a squared loss, one gradient (three where
        there is no scale), for class indices two forward passes, or two gradients if the loss
        takes no class probabilities.  Where :meth:`scale` is asked for every batch, a squared loss
        needs no further check.

        Raises:
            LossError: The loss is no finite scalar, a squared loss is none any more, or the
                gradient no longer depends on class labels in the way it did.
            ShapeError: Class indices out of range that no training target had.
            NonFiniteError: Outputs so large that the loss overflows.
        """
        shaped, targets = self._shaped(outputs), self._cast(targets, outputs)
        self._check_value(shaped, targets)
        if self.is_quadratic:
            self._check_quadratic(shaped, targets)
        else:
            self.labels.check(shaped, targets)

    def _shaped(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(-1, *self._output_shape)

    def _cast(self, targets: Tensor, outputs: Tensor) -> Tensor:
        return targets.to(outputs.dtype) if targets.is_floating_point() else targets

    def _try_derivative(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise at attach what the first step would."""
        push(self._loss, "outputs", outputs, targets, torch.ones_like(outputs)[..., None])
        if not (isinstance(self.labels, ClassLabels) and self.labels.extends_linearly):
            V = outputs.new_ones(len(outputs), self.labels.width, 1)
            self.labels.mixed_derivative(outputs, targets, V)

    def _check_value(self, outputs: Tensor, targets: Tensor) -> None:
        with torch.no_grad():
            value = float(evaluate(self._loss, outputs, targets))
        if -float("inf") < value < float("inf"):
            return
        largest = float(outputs.abs().max())
        if not largest < torch.finfo(outputs.dtype).max ** 0.5:
            raise NonFiniteError(
                f"the loss is {value} on outputs of up to {largest:.3g}: training has diverged; "
                "lower the learning rate"
            )
        raise LossError(
            f"the loss became {value} on a batch of {len(outputs)} rows with outputs of up to "
            f"{largest:.3g}; expected a finite number: check the batch's targets (all of them "
            "ignored?)"
        )

    def _check_quadratic(self, outputs: Tensor, targets: Tensor) -> None:
        if self.scale(targets) is not None:
            return
        gradient = partial(gradient_of, self._loss)
        if not is_affine_on_a_line(gradient, outputs, targets, self._generator):
            raise LossError(
                "the loss was quadratic in outputs and targets at attach, but is not on this batch "
                f"of {len(outputs)} rows (a threshold that changes, another branch?); pass the "
                "loss in the form that it has during training, or use probes=None"
            )
