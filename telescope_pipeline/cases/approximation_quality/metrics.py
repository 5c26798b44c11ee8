"""Final errors and accuracies of every setting of the approximation case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from telescope_pipeline.cases.approximation_quality.schema import ApproximationQualityCase
from telescope_pipeline.cases.approximation_quality.sweep import group_name, lens_name
from telescope_pipeline.study.findings.statistics import (
    by_seed,
    estimate_of,
    final_rows,
    flat,
    means,
)

LAZY = "test/linearization_error"
_MEANS = ("train/mse", "test/mse", "test/accuracy", "test/linearized_accuracy", LAZY)


def summarize(case: ApproximationQualityCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers, by setting and quantity."""
    summary: dict[str, Any] = {}
    for group, part in settings(case, final_rows(history)):
        values = summary[group] = dict[str, Any](means(part, _MEANS))
        for name in lens_names(case):
            error = estimate_of(part, f"test/approximation_error@{name}")
            accuracy = float(part[f"test/accuracy@{name}"].mean())
            values[name] = flat("test_approximation_error", error) | {"test_accuracy": accuracy}
    return summary


def lens_names(case: ApproximationQualityCase) -> list[str]:
    """The lenses that watch every run, as columns name them."""
    return [lens_name(variant.order, variant.stride) for variant in case.lens.lenses]


def settings(
    case: ApproximationQualityCase, final: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every setting with each of its learning rates: name of the group, and one row per seed."""
    for setting in case.training.settings:
        for rate in setting.learning_rates:
            group = group_name(setting.label, rate)
            yield group, by_seed(final, group)
