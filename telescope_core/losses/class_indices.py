"""Class indices: how many classes there are, and which indices are none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from telescope_core.errors import ShapeError


def count_classes(outputs: Tensor, targets: Tensor) -> int:
    """The number of classes from the shapes of outputs and class indices.

    Returns:
        The number, at least 2.

    Raises:
        ShapeError: The targets cannot be class indices of the outputs.
    """
    positions = targets[0].numel()
    classes = outputs[0].numel() // max(1, positions)
    tail, shape = tuple(targets.shape[1:]), tuple(outputs.shape[1:])
    if classes < 2 or shape not in ((*tail, classes), (classes, *tail)):
        raise ShapeError(
            f"targets have dtype {targets.dtype} and shape {tuple(targets.shape)} for outputs of "
            f"shape {tuple(outputs.shape)}; expected class indices (n,) with outputs (n, classes), "
            "(n, positions) with (n, positions, classes) or (n, classes, positions), or "
            "floating-point targets"
        )
    return int(classes)


def is_outside(targets: Tensor, classes: int) -> Tensor:
    """Where an index is no class."""
    return (targets < 0) | (targets >= classes)


def indices_outside(targets: Tensor, classes: int) -> list[int]:
    """The indices that are no class, each once, ascending; none for class probabilities."""
    if targets.is_floating_point():
        return []
    least, most = (int(end) for end in targets.long().aminmax())
    if least >= 0 and most < classes:
        return []
    outside = targets[is_outside(targets, classes)]
    values: list[int] = torch.unique_consecutive(outside.sort().values).tolist()
    return values


def not_classes(indices: Iterable[int], classes: int) -> ShapeError:
    """The error for indices that are neither classes nor ignored."""
    listed = ", ".join(str(index) for index in sorted(indices)[:5])
    return ShapeError(
        f"targets hold the class indices {listed}, the outputs {classes} classes; expected indices "
        f"in 0…{classes - 1}, or an index that the loss ignores (ignore_index, which must be seen "
        "in the training targets at attach)"
    )


def draw_classes(targets: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Random classes in place of all labels; indices that are no class stay."""
    drawn = torch.randint(classes, targets.shape, generator=generator)
    drawn = drawn.to(targets.device, targets.dtype)
    return torch.where(is_outside(targets, classes), targets, drawn)
