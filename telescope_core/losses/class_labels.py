r"""Class indices as labels: label (i, c) is the weight that point i gives to class c.

Where the loss accepts class probabilities with the same gradient, its own extension to class
weights is used.  Any other loss of class indices extends linearly,

.. math:: g(f, Y) = \sum_c Y_c \, g(f, c),

so that its derivative with respect to Y is the gradient with every label set to each class in
turn.  This needs the gradient at every position of the outputs to depend on the label of one
position only: its own, or one a fixed distance away, as for language models that compare outputs
at t with targets at t + 1 inside the loss.  Labels are laid out as the outputs are: label
(i, t, c) belongs to the target that the output (i, t) is compared with.

Indices out of range that the loss ignores (``-100``) are not labels: they have weight 0 for every
class, and which of them are ignored, hence what a mean divides by, is held fixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import LossError
from telescope_core.losses.calls import Loss, evaluate, gradient_of, push
from telescope_core.losses.class_coupling import agree, coupled_labels, tolerance
from telescope_core.losses.class_indices import (
    count_classes,
    draw_classes,
    indices_outside,
    is_outside,
    not_classes,
)
from telescope_core.losses.labels import Labels

# Entries of the gradients for all classes that are held at once.
_ENTRIES_AT_ONCE = 2**24


class ClassLabels(Labels):
    """Labels of a loss of class indices.

    Args:
        loss: The training loss.
        outputs: Outputs of some rows, in the model's shape: ``(rows, classes)``, or with
            positions ``(rows, positions, classes)`` or ``(rows, classes, positions)``.
        targets: Their class indices, ``(rows,)`` or ``(rows, positions)``.
        everything: The class indices of all training rows.

    Attributes:
        classes: Number of classes.
        extends_linearly: Whether the loss takes no class probabilities.
        shift: The output at position t is compared with the target at position ``t + shift``.

    Raises:
        ShapeError: The targets are not class indices of the outputs.
        LossError: The gradient at one position depends on several labels.
    """

    def __init__(
        self,
        loss: Loss,
        outputs: Tensor,
        targets: Tensor,
        everything: Tensor,
    ) -> None:
        self._loss = loss
        self._dtype = outputs.dtype
        self._generator = torch.Generator().manual_seed(0)
        self.width = outputs[0].numel()
        self.classes = count_classes(outputs, targets)
        self._positions = tuple(targets.shape[1:])
        self._ignored = frozenset(indices_outside(everything, self.classes))
        if self._ignored:
            self._require_ignored(outputs, targets)
        # Which dimension the classes are in is open where there are as many positions.
        layouts = [
            class_first
            for class_first in (False, True)
            if tuple(outputs.shape[1:]) == self._shape(class_first)
            and (targets.ndim > 1 or not class_first)
        ]
        self._class_first = layouts[0]
        self.shift = 0
        local = any(self._is_local(layout, outputs, targets) for layout in layouts)
        if not local:
            self._class_first, self.shift = layouts[0], 0
        self.class_axis = 0 if self._class_first else len(self._positions)
        self._weights_class_first = self._class_first
        self.extends_linearly = not any(
            self._takes_probabilities(layout, outputs, targets)
            for layout in (
                (self._class_first, not self._class_first) if self._positions else (False,)
            )
        )
        if self.extends_linearly and not local:
            raise coupled_labels(loss, outputs, targets, self.classes)

    @override
    def flat(self, targets: Tensor) -> Tensor:
        rows = len(targets)
        if targets.is_floating_point():
            by_position = self._by_position(
                targets.reshape(rows, -1, 1), self._weights_class_first
            )[..., 0].to(self._dtype)
        else:
            held = self._is_held(targets)
            index = targets.long().reshape(rows, -1).masked_fill(held, 0)
            by_position = torch.zeros(
                *index.shape, self.classes, dtype=self._dtype, device=index.device
            )
            by_position.scatter_(-1, index[..., None], (~held).to(self._dtype)[..., None])
        by_position = self._at_outputs(by_position)
        if self._class_first:
            by_position = by_position.transpose(1, 2)
        return by_position.reshape(rows, -1)

    @override
    def counted(self, labels: Tensor) -> Tensor | None:
        by_position = self._by_position(labels[..., None], self._class_first)[..., 0]
        held = (by_position == 0).all(dim=-1)
        if not bool(held.any()):
            return None
        counts = (~held)[..., None].expand_as(by_position)
        return (counts.transpose(1, 2) if self._class_first else counts).reshape(labels.shape)

    @override
    def mixed_derivative(self, outputs: Tensor, targets: Tensor, columns: Tensor) -> Tensor:
        rows, m = len(outputs), columns.shape[-1]
        V = self._by_position(columns, self._class_first)  # (rows, positions, class of label, m)
        if not targets.is_floating_point():
            held = self._at_outputs(self._is_held(targets), outside=True)
            V = V.masked_fill(held[:, :, None, None], 0)
        if not self.extends_linearly:
            weights, directions = self._weights(targets), self._as_weights(V)
            pushed = push(self._loss, "targets", outputs, weights, directions)
            factor = self._factor(outputs, targets) if self._holds_some(targets) else None
            return (1.0 if factor is None else factor) * pushed.reshape(rows, -1, m)
        if targets.is_floating_point():
            raise LossError(
                f"targets of a step are {targets.dtype}, but the loss was given class indices at "
                "attach and takes no class probabilities; pass class indices to every step"
            )
        product = torch.zeros_like(V)
        for start, gradients in self._gradients(outputs, targets):
            product += gradients.transpose(2, 3) @ V[:, :, start : start + gradients.shape[2]]
        if self._class_first:
            product = product.transpose(1, 2)
        return product.reshape(rows, -1, m)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse a batch with which the loss treats class indices otherwise than at attach.

        Half of the labels, drawn at random, are set to random classes, and two values (for a loss
        that takes no class probabilities, two gradients) are compared.

        Raises:
            LossError: Class indices no longer act as probabilities do, or on other positions.
            ShapeError: Indices out of range that no training target had.
        """  # noqa: DOC501  # made by coupled_labels
        if targets.is_floating_point():
            return
        others, kept = self._relabel(targets)
        if self.extends_linearly:
            alike = self._agree_where(kept, outputs, targets, others)
        else:
            alike = self._has_value_of_probabilities(
                outputs, others
            ) or self._acts_as_probabilities(outputs, targets, others)
        if not alike:
            raise coupled_labels(self._loss, outputs, targets, self.classes)

    # ------------------------------------------------------------- what the loss does

    def _is_local(self, class_first: bool, outputs: Tensor, targets: Tensor) -> bool:
        """Whether each position depends on one label, outputs being laid out so."""
        self._class_first, self.shift = class_first, 0
        self.shift = self._find_shift(outputs, targets)
        drawn = (draw_classes(targets, self.classes, self._generator) for _ in range(2))
        for y in (targets, *drawn):
            others, kept = self._relabel(y)
            if not self._agree_where(kept, outputs, y, others):
                return False
        return True

    def _takes_probabilities(self, class_first: bool, outputs: Tensor, targets: Tensor) -> bool:
        """Whether the loss takes class probabilities, laid out so, for class indices."""
        self._weights_class_first = class_first
        drawn = (draw_classes(targets, self.classes, self._generator) for _ in range(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the loss, about targets that training never sees
            return self._acts_as_probabilities(outputs, targets, *drawn)

    def _has_value_of_probabilities(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether the values agree: cheaper than gradients, but a sum of both signs may not."""
        with torch.no_grad():
            try:
                as_weights = evaluate(self._loss, outputs, self._weights(targets))
            except LossError:
                return False
            return agree(evaluate(self._loss, outputs, targets), as_weights)

    def _acts_as_probabilities(self, outputs: Tensor, *targets: Tensor) -> bool:
        """Whether gradients for class indices are those for probabilities, up to one factor."""
        factors = [self._factor(outputs, y) for y in targets]
        known = [factor for factor in factors if factor is not None]
        near = tolerance(self._dtype) * max(known, default=0.0)
        return len(known) == len(factors) and max(known) - min(known) <= near

    def _factor(self, outputs: Tensor, targets: Tensor) -> float | None:
        """What the gradient for class indices is of the one for class probabilities.

        It is 1 unless some indices are ignored: these count for a mean of probabilities, which are
        zero there, and not for a mean of indices.

        Returns:
            The factor; ``None`` if the one is no multiple of the other.
        """
        try:
            as_weights = gradient_of(self._loss, outputs, self._weights(targets))
        except LossError:
            return None
        as_indices = gradient_of(self._loss, outputs, targets)
        if agree(as_indices, as_weights):
            return 1.0
        size = float(as_weights.square().sum())
        if not self._holds_some(targets) or size == 0:
            return None
        factor = float((as_indices * as_weights).sum()) / size
        return factor if factor > 0 and agree(as_indices, factor * as_weights) else None

    def _holds_some(self, targets: Tensor) -> bool:
        """Whether some of the targets are ignored."""
        return not targets.is_floating_point() and bool(is_outside(targets, self.classes).any())

    def _agree_where(self, kept: Tensor, outputs: Tensor, targets: Tensor, others: Tensor) -> bool:
        """Whether the gradients for two sets of labels agree where the labels are the same."""
        here, there = (self._gradient(outputs, y) for y in (targets, others))
        same = self._at_outputs(kept.reshape(len(kept), -1), outside=True)
        gap = (here - there).abs_().amax(-1).masked_fill_(~same, 0).max()
        return bool(gap <= tolerance(self._dtype) * here.abs().max())

    def _find_shift(self, outputs: Tensor, targets: Tensor) -> int:
        """How far the label is that a position's gradient depends on; 0 where that is unclear."""
        positions = targets[0].numel()
        if positions < 2:
            return 0
        held = self._is_held(targets)
        # The position with most labels, in the middle where there is a choice.
        off_middle = (torch.arange(positions, device=targets.device) - positions // 2).abs()
        at = int(((~held).sum(0) * positions - off_middle).argmax())
        before = targets.reshape(len(targets), -1)
        after = before.clone()
        after[:, at] = torch.where(held[:, at], before[:, at], (before[:, at] + 1) % self.classes)
        after = after.reshape(targets.shape)
        change = self._gradient(outputs, after) - self._gradient(outputs, targets)
        size = change.abs().amax(dim=(0, 2))
        moved = (size > tolerance(self._dtype) * size.max()).nonzero().flatten()
        return at - int(moved[0]) if len(moved) == 1 else 0

    def _gradients(self, outputs: Tensor, targets: Tensor) -> Iterator[tuple[int, Tensor]]:
        """``g(f, c)`` with every label set to c, for some classes at a time.

        Yields:
            The first class, and the gradients ``(rows, positions, class of label, class)``.
        """
        held = is_outside(targets, self.classes)
        at_once = max(1, _ENTRIES_AT_ONCE // outputs.numel())
        for start in range(0, self.classes, at_once):
            some = range(start, min(start + at_once, self.classes))
            labels = (torch.where(held, targets, torch.full_like(targets, c)) for c in some)
            yield start, torch.stack([self._gradient(outputs, y) for y in labels], dim=2)

    def _gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``g`` by position, ``(rows, positions, classes)``."""
        g = gradient_of(self._loss, outputs, targets).reshape(len(outputs), -1, 1)
        return self._by_position(g, self._class_first)[..., 0]

    def _require_ignored(self, outputs: Tensor, targets: Tensor) -> None:
        """Refuse negative indices that the loss takes for classes counted from the end."""
        counted_from_the_end = (targets < 0) & (targets >= -self.classes)
        if not bool(counted_from_the_end.any()):
            return
        wrapped = torch.where(counted_from_the_end, targets + self.classes, targets)
        here, there = (gradient_of(self._loss, outputs, y) for y in (targets, wrapped))
        if agree(here, there):
            raise not_classes(self._ignored, self.classes)

    # ---------------------------------------------------------------- labels by position

    def _is_held(self, targets: Tensor) -> Tensor:
        """Where targets are ignored, ``(rows, positions)``."""
        others = set(indices_outside(targets, self.classes)) - self._ignored
        if others:
            raise not_classes(others, self.classes)
        return is_outside(targets, self.classes).reshape(len(targets), -1)

    def _relabel(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Random classes in place of about half of the labels, and where labels were kept."""
        self._is_held(targets)
        kept = torch.rand(targets.shape, generator=self._generator).to(targets.device) < 0.5
        drawn = draw_classes(targets, self.classes, self._generator)
        return torch.where(kept, targets, drawn), kept

    def _weights(self, targets: Tensor) -> Tensor:
        """Targets as class probabilities in the layout that the loss takes."""
        if targets.is_floating_point():
            return targets
        labels = self._by_position(self.flat(targets)[..., None], self._class_first)
        return self._as_weights(labels)[..., 0]

    def _as_weights(self, labels: Tensor) -> Tensor:
        """``(rows, positions, classes, m)`` as what the loss takes, with a trailing m."""
        rows, m = len(labels), labels.shape[-1]
        at_targets = _shifted(labels, -self.shift)
        if self._weights_class_first:
            at_targets = at_targets.transpose(1, 2)
        return at_targets.reshape(rows, *self._shape(self._weights_class_first), m)

    def _shape(self, class_first: bool) -> tuple[int, ...]:
        positions = self._positions
        return (self.classes, *positions) if class_first else (*positions, self.classes)

    def _by_position(self, columns: Tensor, class_first: bool) -> Tensor:
        """``(rows, k, m)`` as ``(rows, positions, classes, m)``."""
        rows, k, m = columns.shape
        positions = k // self.classes
        if class_first:
            return columns.reshape(rows, self.classes, positions, m).transpose(1, 2)
        return columns.reshape(rows, positions, self.classes, m)

    def _at_outputs(self, labels: Tensor, *, outside: bool = False) -> Tensor:
        """Values ``(rows, positions, …)`` moved to the outputs' positions; ``outside`` fills up."""
        return _shifted(labels, self.shift, outside)


def _shifted(values: Tensor, shift: int, outside: bool = False) -> Tensor:
    """At position t the value of position ``t + shift``; ``outside`` where there is none."""
    if not shift:
        return values
    positions = values.shape[1]
    moved = torch.full_like(values, outside)
    to = slice(max(0, -shift), positions - max(0, shift))
    moved[:, to] = values[:, to.start + shift : to.stop + shift]
    return moved
