r"""Recognises the response of a loss by what the loss does, not by its name.

A loss tells its response by its gradient.  For fixed labels, that of a cross-entropy is affine in
the softmax of the outputs, with the same positive slope for all classes of a position, whatever
weights and smoothing it has: ``g = a π − b``.  That of a binary cross-entropy is so in the sigmoid
of each output.  A loss of the probability of the right class alone (a focal loss) has
``g = a (π − y)`` with a factor that may depend on everything.  The gradient of a loss of
log-probabilities does not depend on them.  Where the gradient vanishes at outputs that equal the
labels, outputs are predictions.

Gradients are compared at random places far from the data, so that a loss of another temperature,
a margin or a penalty of logits is not taken for what it resembles near initialisation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from telescope_core.errors import ConfigurationError, LossError
from telescope_core.losses.calls import Loss, gradient_of
from telescope_core.losses.labels import Labels
from telescope_core.losses.response import Kind, Response, ResponseSetting

_ROWS = 32
# Logits of this spread take the softmax from uncertain to nearly certain.
_SPREAD = 2.0
_PLACES = 4


def recognise(
    loss: Loss, outputs: Tensor, targets: Tensor, labels: Labels, *, is_quadratic: bool
) -> Response | None:
    """The response of a loss.

    Args:
        loss: The training loss.
        outputs: Of some training rows, in the model's shape.
        targets: Their targets, as the loss takes them.
        labels: What the labels are.
        is_quadratic: Whether the gradient is affine in outputs and labels.

    Returns:
        The response; ``None`` if the loss tells none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the loss, about values that training never sees
        seen = _Examined(loss, outputs[:_ROWS], targets[:_ROWS], labels)
        axis = seen.axis_of_log_probabilities()
        if axis is not None:
            return seen.response("exp", axis)
        if is_quadratic or seen.vanishes_at_means(seen.response("identity")):
            return seen.response("identity")
        for axis in seen.axes():
            if seen.is_cross_entropy(axis):
                return seen.response("softmax", axis)
            if seen.points_to_labels(seen.response("identity"), axis):
                return seen.response("identity")
        sigmoid = seen.response("sigmoid")
        if seen.is_affine_in(sigmoid) or seen.vanishes_at_means(sigmoid):
            return sigmoid
        # Whatever the loss makes of them, these are predictions.
        return seen.response("identity") if seen.are_probabilities() else None


def chosen(
    setting: ResponseSetting, recognised: Response | None, outputs: Tensor, labels: Labels
) -> Response | None:
    """The response that the user asked for, if it does not contradict the loss.

    Args:
        setting: What the user asked for.
        recognised: What :func:`recognise` found.
        outputs: Of some training rows, in the model's shape.
        labels: What the labels are.

    Returns:
        The response; ``None`` if it is to be recognised and was not.

    Raises:
        ConfigurationError: The loss has another response, or the outputs cannot have this one.
    """
    if setting == "auto" or (recognised is not None and recognised.kind == setting):
        return recognised
    if recognised is not None:
        raise ConfigurationError(
            f"response={setting!r}, but the gradient of the loss shows the response "
            f"{recognised.kind!r}; use response='auto'"
        )
    shape = tuple(outputs.shape[1:])
    if setting == "identity":
        return Response("identity", shape)
    k = outputs[0].numel()
    if labels.width != k:
        raise ConfigurationError(
            f"response={setting!r} needs a label for every output, got {labels.width} labels for "
            f"{k} outputs of a row; use response='auto'"
        )
    if setting == "sigmoid":
        return Response("sigmoid", shape)
    axis = labels.class_axis if shape else None
    if axis is None or shape[axis] < 2:
        raise ConfigurationError(
            f"response={setting!r} needs the outputs of at least two classes, got outputs of shape "
            f"{tuple(outputs.shape)}; use response='sigmoid' for a single logit"
        )
    if setting == "exp" and not _are_normalised(outputs, axis):
        raise ConfigurationError(
            "response='exp' needs log-probabilities that sum to one, which the outputs are not; "
            "use response='softmax' for logits"
        )
    return Response(setting, shape, axis)


class _Examined:
    """A loss on some rows, and what its gradient does there."""

    def __init__(self, loss: Loss, outputs: Tensor, targets: Tensor, labels: Labels) -> None:
        self._loss, self._labels = loss, labels
        self._outputs, self._targets = outputs.detach(), targets
        self._rounding = 1e3 * torch.finfo(outputs.dtype).eps
        double = self._in_double()
        if double is not None:
            self._outputs, self._targets = double
        self._tolerance = min(0.05, 1e3 * torch.finfo(self._outputs.dtype).eps)
        self._shape = tuple(outputs.shape[1:])
        self._wide: tuple[Tensor, Tensor] | None = None

    def response(self, kind: Kind, axis: int | None = None) -> Response:
        return Response(kind, self._shape, axis)

    def axes(self) -> Iterator[int]:
        """Dimensions of a row's outputs that may run over classes."""
        return (axis for axis, size in enumerate(self._shape) if size > 1)

    def axis_of_log_probabilities(self) -> int | None:
        """The classes of outputs that are log-probabilities, if the loss is linear in them."""
        for axis in self.axes():
            if not _are_normalised(self._outputs, axis, self._rounding):
                continue
            places = torch.stack([self._outputs, self._outputs.roll(1, 0), self._outputs - 1])
            gradients = self._gradients(places)
            if gradients is None:
                return None
            size = float(gradients.abs().max())
            gap = float((gradients - gradients[0]).abs().max())
            return axis if size > 0 and gap <= self._tolerance * size else None
        return None

    def vanishes_at_means(self, response: Response) -> bool:
        """Whether the gradient vanishes at labels that equal the means: the loss asks for them."""
        f, y = self._outputs, self._targets
        if not y.is_floating_point() or y.numel() != f.numel():
            return False
        if response.is_identity:  # which may live on a convex set only
            f = torch.lerp(f, f.roll(1, 0), 0.3)
        elif (found := self._far()) is not None:
            f = found[0][0]
        else:
            return False
        means = response.means(f.flatten(1) if f.ndim > 1 else f).reshape(f.shape)
        try:
            there = gradient_of(self._loss, f, means.reshape(y.shape))
            sizes = [
                gradient_of(self._loss, f, labels.reshape(y.shape)).abs().max()
                for labels in (means.roll(1, 0), y)
            ]
        except LossError:
            return False
        size = torch.stack(sizes).max()
        # Losses add small numbers to what they divide by.
        return bool(size > 0) and bool(there.abs().max() <= max(1e-6, self._tolerance) * size)

    def is_cross_entropy(self, axis: int) -> bool:
        """Whether the gradient is one of a loss of the softmax along a dimension."""
        response = self.response("softmax", axis)
        if self.is_affine_in(response) or self.vanishes_at_means(response):
            return True
        # With two classes any gradient that sums to zero is proportional to π − y.
        return self._shape[axis] > 2 and self.points_to_labels(response, axis)

    def is_affine_in(self, response: Response) -> bool:
        """Whether ``g = a π − b``, a and b being the same at all places and ``a > 0``."""
        found = self._far()
        if found is None or not self._labels_are_probabilities():
            return False
        places, gradients = found
        means = self._means(response, places)
        over = (0,) if response.axis is None else (0, 2 + response.axis)
        P, G = means - means.mean(0), gradients - gradients.mean(0)
        # A softmax does not know a constant that is added to a position's outputs.
        size = gradients.abs().amax(over, keepdim=True)
        total = 0 * size if response.axis is None else gradients.sum(over[1:], keepdim=True)
        return _fits(G, P, total, over, self._tolerance * size)

    def points_to_labels(self, response: Response, axis: int) -> bool:
        """Whether ``g = a (means − y)`` with a positive factor of every position and place."""
        found = self._far()
        if found is None or self._labels.width != self._outputs[0].numel():
            return False
        places, gradients = found
        labels = self._labels.flat(self._targets).to(places.dtype).reshape(places.shape[1:])
        residual = self._means(response, places) - labels
        size = gradients.abs().amax(2 + axis, keepdim=True)
        return _fits(gradients, residual, 0 * size, (2 + axis,), self._tolerance * size)

    def are_probabilities(self) -> bool:
        """Whether the outputs are probabilities of classes."""
        f = self._outputs
        return bool((f >= 0).all()) and any(
            bool(((f.sum(1 + axis) - 1).abs() <= self._rounding).all()) for axis in self.axes()
        )

    def _labels_are_probabilities(self) -> bool:
        y = self._targets
        return not y.is_floating_point() or bool(((y >= 0) & (y <= 1)).all())

    def _means(self, response: Response, places: Tensor) -> Tensor:
        flat = places.reshape(places[0].shape[0] * len(places), -1)
        return response.means(flat).reshape(places.shape)

    def _far(self) -> tuple[Tensor, Tensor] | None:
        """Places far from the data, and the gradients there; ``None`` if the loss has none."""
        if self._wide is None and not self._may_leave():
            return None
        if self._wide is None:
            generator = torch.Generator().manual_seed(4)
            drawn = torch.randn(
                _PLACES, *self._outputs.shape, generator=generator, dtype=torch.float64
            )
            places = (_SPREAD * drawn).to(self._outputs)
            gradients = self._gradients(places)
            if gradients is None:
                return None
            self._wide = places, gradients
        return self._wide

    def _may_leave(self) -> bool:
        """Whether the loss can be tried outside of where the outputs are."""
        # On other devices than the CPU an argument outside of its domain ends the process.
        f = self._outputs
        return f.device.type == "cpu" or not bool(((f >= 0) & (f <= 1)).all())

    def _gradients(self, places: Tensor) -> Tensor | None:
        try:
            found = torch.stack([gradient_of(self._loss, f, self._targets) for f in places])
        except LossError:
            return None
        return found if bool(torch.isfinite(found).all()) else None

    def _in_double(self) -> tuple[Tensor, Tensor] | None:
        """Outputs and targets in float64, if device and loss know it."""
        y = self._targets
        try:
            f = self._outputs.double()
            y = y.double() if y.is_floating_point() else y
            gradient_of(self._loss, f, y)
        except (LossError, TypeError):
            return None
        return f, y


def _are_normalised(outputs: Tensor, axis: int, rounding: float | None = None) -> bool:
    """Whether outputs are log-probabilities along a dimension of a row."""
    allowed = 1e3 * torch.finfo(outputs.dtype).eps if rounding is None else rounding
    return bool((outputs.logsumexp(1 + axis).abs() <= allowed).all())


def _fits(
    values: Tensor, regressor: Tensor, more: Tensor, over: tuple[int, ...], allowed: Tensor
) -> bool:
    """Whether values are a positive multiple of a regressor, group by group.

    Args:
        values: What is to be explained.
        regressor: Of the same shape.
        more: Further deviations, which must vanish.
        over: The dimensions of a group, which has one factor.
        allowed: Deviation per group; groups with 0 have no values and are left out.

    Returns:
        Whether every group with values fits, and there is one.
    """
    a = (values * regressor).sum(over, keepdim=True) / regressor.square().sum(over, keepdim=True)
    gap = (values - a * regressor).abs().amax(over, keepdim=True) + more.abs()
    fits = (a > 0) & (gap <= allowed)
    return bool((allowed > 0).any()) and bool((fits | (allowed == 0)).all())
