"""Final errors, effective parameters and shares of layers of the convolutional network.

For cross-entropy the smoother is the sensitivity of the telescoped logits to the one-hot labels,
and "effective parameters" applies the formula of squared loss to it.  That is not bounded by the
number of training points: a logit that is free to fit its label answers a change of it by 1/p,
where p is the probability of the class, so the sensitivity may grow as the network becomes sure.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.cases.convolutional_network.sweep import (
    LAZY,
    TELESCOPED,
    TEST,
    TRAIN,
    group_name,
    layer_column,
    layers,
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
            f"{name}_share": {
                layer.replace(".", "_"): estimate(share).record
                for layer, share in layer_shares(part, name).items()
            }
            for name in ("train", "test")
        }
        summary[group_name(level)] = means(part, _PLAIN) | estimates(part, (TRAIN, TEST)) | shares
    return summary


def layer_shares(part: pd.DataFrame, name: str) -> dict[str, pd.Series[float]]:
    """Each layer's part of a set's effective parameters, as a proportion.

    Args:
        part: Records with effective parameters above zero.
        name: ``train`` or ``test``.

    Returns:
        For each layer one proportion per record; they add up to one.
    """
    total = part[f"{name}/effective_parameters"]
    return {layer: part[layer_column(name, layer)] / total for layer in layers(part.columns)}
