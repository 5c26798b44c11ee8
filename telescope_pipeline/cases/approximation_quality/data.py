"""Two classes, in one split that all members share."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.approximation_quality.schema import ApproximationQualityCase
from telescope_pipeline.cases.approximation_quality.sweep import FILE_STEM
from telescope_pipeline.contract import Prepared
from telescope_pipeline.study.datasets.sources import draw_binary


def prepare(case: ApproximationQualityCase, seed: int) -> Prepared:
    """Draw one training and one test set.

    Returns:
        One data file for all members, with its card.

    Raises:
        DataError: The files of the data set are missing or damaged, or hold too few rows.
        MissingDependencyError: A package that reads the data set is not installed.
    """
    drawn = draw_binary(case.data, derive_seed(seed, "approximation_quality", "split"))
    return Prepared(
        {FILE_STEM: drawn.tensors()},
        {"name": case.data.source, "files": {FILE_STEM: drawn.card}},
    )
