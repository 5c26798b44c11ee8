"""Two classes, with fresh label noise for every seed."""

from __future__ import annotations

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.sources import draw_binary
from telescope_pipeline.study.sweep import drawn_per_seed


def prepare(case: DoubleDescentCase, seed: int) -> Prepared:
    """Draw images and flip training labels for every seed; MNIST-1D's signals are generated once.

    Returns:
        One data file per seed, with its card.

    Raises:
        DataError: The files of the data set are missing or damaged, or hold too few images.
        MissingDependencyError: A package that reads the data set is not installed.
    """
    return drawn_per_seed(
        case.data.source,
        case.seeds,
        lambda drawn_with: draw_binary(case.data, drawn_with),
        seed,
        "double_descent",
        "data",
    )
