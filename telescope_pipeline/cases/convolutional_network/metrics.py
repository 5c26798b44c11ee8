"""Final errors, degrees of freedom and what each layer holds of them.

The degrees of freedom are those of the predicted probabilities, a count from 0 to the number of
training points (docs/mathematics.md, section 5.1).  The sensitivity of logits is the formula of
effective parameters applied to logits; it has no such bound.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.cases.convolutional_network.sweep import (
    LAZY,
    TELESCOPED,
    group_name,
    layer_column,
    layers,
)
from telescope_pipeline.study.findings.complexity import (
    DEGREES_OF_FREEDOM,
    TEST_SENSITIVITY,
    TRAIN_SENSITIVITY,
)
from telescope_pipeline.study.findings.statistics import (
    by_seed,
    estimate,
    estimates,
    final_rows,
    means,
)

_PLAIN = (
    "train/loss",
    "test/loss",
    "train/accuracy",
    "train/clean_accuracy",
    "test/accuracy",
    LAZY,
    TELESCOPED,
    "train/kernel_norm_mean",
    "test/kernel_norm_mean",
)


def summarize(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers, by level of label noise."""
    final = final_rows(history)
    summary: dict[str, Any] = {}
    for level in case.data.label_noise:
        part = by_seed(final, group_name(level))
        shares = {
            layer.replace(".", "_"): estimate(share).record
            for layer, share in layer_shares(part).items()
        }
        measured = estimates(part, (DEGREES_OF_FREEDOM, TRAIN_SENSITIVITY, TEST_SENSITIVITY))
        summary[group_name(level)] = means(part, _PLAIN) | measured | {"share": shares}
    return summary


def layer_shares(part: pd.DataFrame) -> dict[str, pd.Series[float]]:
    """Each layer's part of the degrees of freedom, as a proportion.

    Args:
        part: Records with degrees of freedom above zero.

    Returns:
        For each layer one proportion per record; they add up to one.
    """
    total = part[DEGREES_OF_FREEDOM]
    return {layer: part[layer_column(layer)] / total for layer in layers(part.columns)}
