"""Label noise: a stated proportion of binary labels is flipped, no more and no fewer."""

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
