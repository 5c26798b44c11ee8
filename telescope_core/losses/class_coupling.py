"""Why the gradient of a loss of class indices depends on the labels of other points."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_core.errors import LossError
from telescope_core.losses.calls import Loss, gradient_of
from telescope_core.losses.class_indices import draw_classes, is_outside

_ADVICE = (
    ", so it has no derivative with respect to the labels. Use reduction='sum' divided by the "
    "batch size, pass class probabilities as targets, or probes=None"
)
# Labels that are changed to see what a loss divides by; some classes may weigh the same.
_TRIES = 16


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two gradients, or values, agree to rounding of their largest entry."""
    if not a.numel():
        return True
    size = torch.maximum(a.abs().max(), b.abs().max())
    return bool((a - b).abs().max() <= tolerance(a.dtype) * size)


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference of gradients that are the same but for rounding."""
    return 1e3 * torch.finfo(dtype).eps


def coupled_labels(loss: Loss, outputs: Tensor, targets: Tensor, classes: int) -> LossError:
    """The error for a loss whose gradient at one point depends on the labels of others."""
    start = "targets are class indices, but the gradient of the loss for one point depends on "
    if _changes_by_a_factor(loss, outputs, targets, classes):
        return LossError(
            f"{start}the labels of others: they change what the loss divides by (class weights "
            f"with reduction='mean', or ignore_index at a class?){_ADVICE}"
        )
    if targets[0].numel() > 1 and _rows_are_independent(loss, outputs, targets, classes):
        return LossError(
            f"{start}the labels of other positions of its row (the loss compares outputs at "
            "position t with labels at t + 1, or at several positions?), so no label is one "
            "position's own; shift the targets outside of the loss, so that outputs and labels of "
            "the same position belong together, or use probes=None"
        )
    return LossError(f"{start}the labels of others{_ADVICE}")


def _changes_by_a_factor(loss: Loss, outputs: Tensor, targets: Tensor, classes: int) -> bool:
    """Whether another label of one point rescales the gradients of nearly all others."""
    labelled = (~is_outside(targets, classes)).flatten().nonzero().flatten().tolist()
    here = gradient_of(loss, outputs, targets).flatten()
    for number, at in enumerate(labelled[:: max(1, len(labelled) // _TRIES)]):
        other = targets.flatten().clone()
        other[at] = (other[at] + 1 + number % (classes - 1)) % classes
        there = gradient_of(loss, outputs, other.reshape(targets.shape)).flatten()
        ratio = (there / here)[here != 0]
        if not ratio.numel():
            continue
        factor = float(ratio.median())
        near = tolerance(here.dtype)
        alike = int(((ratio - factor).abs() <= near * abs(factor)).sum())
        if abs(factor - 1) > near and alike >= ratio.numel() - 2 * classes > 0:
            return True
    return False


def _rows_are_independent(loss: Loss, outputs: Tensor, targets: Tensor, classes: int) -> bool:
    """Whether the labels of the first row leave the gradient of the others alone."""
    if len(targets) < 2:
        return True
    other = draw_classes(targets, classes, torch.Generator().manual_seed(3))
    other[1:] = targets[1:]
    here, there = (gradient_of(loss, outputs, y)[1:] for y in (targets, other))
    return agree(here, there)
