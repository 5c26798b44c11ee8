"""The signals of MNIST-1D (Greydanus and Kobak 2024), in the bits of the package ``mnist1d``.

The package brings matplotlib along, which nothing else needs, and seeds numpy's global generator.
Ten shapes, one a digit, are padded, stretched, scaled, shifted, disturbed and sheared; the shapes
and the settings are the package's (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = "0.0.2.post1"
SEED = 42

Floats = npt.NDArray[np.float64]

_TRAIN, _TEST, _POINTS = 4000, 1000, 40
_PADDING = (36, 60)
_SHIFTS = 48
_SCALE, _SHEAR = 0.4, 0.75
_SMOOTH_NOISE, _NOISE = 0.25, 0.02
_SHAPES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)


@dataclass(frozen=True)
class Signals:
    """All ten classes, in random order.

    Attributes:
        train: (4000, 40).
        train_digits: (4000,).
        test: (1000, 40).
        test_digits: (1000,).
    """

    train: Floats
    train_digits: npt.NDArray[np.int64]
    test: Floats
    test_digits: npt.NDArray[np.int64]


def signals() -> Signals:
    """Generate the set with the package's default settings, which are always the same.

    Returns:
        The signals, of mean 0 and standard deviation 1 as a whole.
    """
    shapes = np.asarray(_SHAPES)
    shapes -= shapes.mean(axis=1, keepdims=True)
    shapes /= shapes.std(axis=1, keepdims=True)
    shapes -= shapes[:, :1]
    shapes /= 6.0
    # The package's generator is numpy's legacy one, whose stream is frozen.
    draws = np.random.RandomState(SEED)
    count = _TRAIN + _TEST
    digits = np.repeat(np.arange(len(shapes)), count // len(shapes))
    values = np.stack([_disturbed(shapes[digit], draws) for digit in digits])
    order = draws.permutation(count)
    values, digits = values[order], digits[order]
    values = (values - values.mean()) / values.std()
    return Signals(values[:_TRAIN], digits[:_TRAIN], values[_TRAIN:], digits[_TRAIN:])


def _disturbed(shape: Floats, draws: Any) -> Floats:
    """One signal (40,) from a shape (12,)."""
    from scipy.ndimage import gaussian_filter

    low, high = _PADDING
    zeros = np.zeros(low + int(draws.rand() * (high - low + 1)))
    # The offset tells a shape that touches zero from the padding.
    x = _resampled(np.concatenate([shape + 1e-8, zeros]), len(shape) + high)
    x *= 1 + _SCALE * (draws.rand() - 0.5)
    shift = draws.choice(_SHIFTS)
    x = np.concatenate([x[-shift:], x[:-shift]])
    smooth = gaussian_filter(_SMOOTH_NOISE * draws.randn(len(x)), 2)
    x = np.where(x != 0, x, smooth) + _NOISE * draws.randn(len(x))
    slope = _SHEAR * (draws.rand() - 0.5)
    return _resampled(x - slope * np.linspace(-0.5, 0.5, len(x)), _POINTS)


def _resampled(values: Floats, points: int) -> Floats:
    return np.interp(np.linspace(0, 1, points), np.linspace(0, 1, len(values)), values)
