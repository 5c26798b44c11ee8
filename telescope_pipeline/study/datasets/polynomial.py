"""Polynomial regression on which a wide quadratic network groks (after Kumar et al. 2024)."""

from __future__ import annotations

import math

import torch

from telescope_core.errors import DataError
from telescope_pipeline.study.datasets.dataset import Dataset, describe_noise, describe_split


def draw_polynomial(dimension: int, train_size: int, test_size: int, seed: int) -> Dataset:
    """Draw ``y = (beta.x)^2 / 2`` with ``x ~ N(0, I/d)`` and ``beta ~ N(0, I)``.

    Everything is drawn and multiplied in float64 and rounded once to float32.

    Args:
        dimension: Number of input features d.
        train_size: Number of training points.
        test_size: Number of test points, drawn from the same distribution.
        seed: Decides beta and all points.

    Returns:
        The data set, with ``beta`` (d,) among its extra tensors.

    Raises:
        DataError: A size is smaller than one.
    """
    sizes = {"dimension": dimension, "train_size": train_size, "test_size": test_size}
    for name, size in sizes.items():
        if size < 1:
            raise DataError(f"{name} must be at least 1, got {size}")
    generator = torch.Generator().manual_seed(seed)
    beta = torch.randn(dimension, generator=generator, dtype=torch.float64)
    rows = train_size + test_size
    inputs = torch.randn(rows, dimension, generator=generator, dtype=torch.float64)
    inputs /= math.sqrt(dimension)
    # An elementwise product and sum: unlike a BLAS product it does not depend on threads.
    targets = 0.5 * (inputs * beta).sum(dim=1).square()
    inputs, targets = inputs.float(), targets.float()
    train = inputs[:train_size], targets[:train_size]
    test = inputs[train_size:], targets[train_size:]
    card = {
        "name": "polynomial",
        "source": "generated: x ~ N(0, I/d), beta ~ N(0, I), y = (beta.x)^2 / 2; "
        "setting of Kumar et al. 2024, 'Grokking as the transition from lazy to rich "
        "training dynamics'",
        "licence": "generated, no licence attached",
        "task": "regression",
        "seed": seed,
        "train": describe_split(*train, classes=False),
        "test": describe_split(*test, classes=False),
        "normalisation": "none: features have variance 1/d by construction",
        "label_noise": describe_noise(),
    }
    return Dataset(*train, *test, card=card, extras={"beta": beta.float()})
