"""Preparing a table, and telling its irregular rows (Section 4.2 and Appendix of the paper).

The paper leaves open when a feature counts as skewed, and over which rows scales and the principal
component are computed. Here a feature is skewed when the absolute value of its sample skewness
exceeds a threshold, and all of these are computed over the whole table; labels play no part in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from telescope_core.errors import DataError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def skewness(features: Floats) -> Floats:
    """Third standardised moment of every column, 0 for a constant one.

    Args:
        features: (rows, d).

    Returns:
        (d,).
    """
    centred = features - features.mean(axis=0)
    spread = np.sqrt(np.square(centred).mean(axis=0))
    third = (centred**3).mean(axis=0)
    return np.asarray(np.divide(third, spread**3, out=np.zeros_like(spread), where=spread > 0))


def unskew(features: Floats, threshold: float) -> tuple[Floats, Flags]:
    """Log-transform skewed columns: ``sign(x) · log(1 + |x|)``, which takes zeros and signs.

    Args:
        features: (rows, d).
        threshold: A column of larger absolute skewness is transformed.

    Returns:
        The columns and, for each, whether it was transformed.
    """
    skewed = np.abs(skewness(features)) > threshold
    logs = np.sign(features) * np.log1p(np.abs(features))
    return np.where(skewed, logs, features), skewed


def standardize(features: Floats) -> Floats:
    """Give every column mean 0 and standard deviation 1.

    Args:
        features: (rows, d).

    Returns:
        (rows, d).

    Raises:
        DataError: A column is constant.
    """
    spread = features.std(axis=0)
    constant = np.flatnonzero(spread == 0)
    if len(constant):
        raise DataError(
            f"feature {constant[0]} of the table is constant; drop it, it cannot be standardised"
        )
    return np.asarray((features - features.mean(axis=0)) / spread)


def irregularity(standardized: Floats) -> Floats:
    """Absolute distance of the first principal component's scores to their median.

    Args:
        standardized: (rows, d), columns of mean 0.

    Returns:
        (rows,).
    """
    _, directions = np.linalg.eigh(standardized.T @ standardized)
    scores = standardized @ directions[:, -1]
    return np.asarray(np.abs(scores - np.median(scores)))


def irregular_rows(distances: Floats, part: float) -> Flags:
    """The given part of the rows, those with the largest distances; ties go to earlier rows.

    Args:
        distances: (rows,), from :func:`irregularity`.
        part: Between 0 and 1.

    Returns:
        (rows,), whether a row is irregular.
    """
    flags = np.zeros(len(distances), dtype=np.bool_)
    flags[np.argsort(-distances, kind="stable")[: round(part * len(distances))]] = True
    return flags
