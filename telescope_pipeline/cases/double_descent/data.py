"""Two classes, with fresh label noise for every seed."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.double_descent.names import file_stem
from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.sources import draw_replicates


def prepare(case: DoubleDescentCase, seed: int) -> Prepared:
    """Draw images and flip training labels for every seed; MNIST-1D's signals are generated once.

    All widths of one seed share one draw, so differences between widths are not differences
    between draws, while the error bars over seeds include the draw.

    Args:
        case: The case's parameters.
        seed: The run's seed.

    Returns:
        One file per seed, with its card.

    Raises:
        DataError: The files of the data set are missing or damaged, or hold too few images.
        MissingDependencyError: A package that reads the data set is not installed.
    """
    return draw_replicates(
        case.data,
        case.seeds,
        lambda replicate: derive_seed(seed, "double_descent", "data", replicate),
        file_stem,
    )
