"""Label noise: a stated proportion of labels is changed, no more and no fewer."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_core.errors import DataError


def flip_labels(labels: Tensor, proportion: float, seed: int) -> Tensor:
    """Flip ``round(proportion * n)`` labels chosen without replacement.

    Args:
        labels: (n,), every entry 0 or 1, any dtype.
        proportion: Part of the labels to flip, between 0 and 1.
        seed: Decides which labels are flipped; the global generator is left alone.

    Returns:
        A new tensor (n,) of the same dtype.

    Raises:
        DataError: The labels are not binary or the proportion is out of range.
    """
    if not 0.0 <= proportion <= 1.0:
        raise DataError(f"label noise must be a proportion between 0 and 1, got {proportion}")
    if labels.ndim != 1 or not bool(((labels == 0) | (labels == 1)).all()):
        raise DataError(
            f"label noise needs a vector of labels 0 and 1, got shape {tuple(labels.shape)} "
            f"with values such as {labels.flatten()[:5].tolist()}"
        )
    count = round(proportion * len(labels))
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    noisy = labels.clone()
    noisy[chosen] = 1 - noisy[chosen]
    return noisy


def relabel(labels: Tensor, proportion: float, classes: int, seed: int) -> Tensor:
    """Give ``round(proportion * n)`` labels, chosen without replacement, another class.

    The new class is uniform over the ``classes - 1`` others. A larger proportion with the same seed
    changes the labels of a smaller one, and others as well.

    Args:
        labels: (n,), int64 class indices.
        proportion: Part of the labels to change, between 0 and 1.
        classes: Number of classes, at least 2.
        seed: Decides which labels change and to what; the global generator is left alone.

    Returns:
        A new tensor (n,), int64.

    Raises:
        DataError: The labels are not class indices, there are fewer than two classes, or the
            proportion is out of range.
    """
    if not 0.0 <= proportion <= 1.0:
        raise DataError(f"label noise must be a proportion between 0 and 1, got {proportion}")
    if classes < 2:
        raise DataError(f"other labels need at least 2 classes, got {classes}")
    if labels.ndim != 1 or not bool(((labels >= 0) & (labels < classes)).all()):
        raise DataError(
            f"label noise needs a vector of class indices below {classes}, got shape "
            f"{tuple(labels.shape)} with values such as {labels.flatten()[:5].tolist()}"
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)
    shifts = torch.randint(1, classes, (len(labels),), generator=generator)
    chosen = chosen[: round(proportion * len(labels))]
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shifts[: len(chosen)]) % classes
    return noisy
