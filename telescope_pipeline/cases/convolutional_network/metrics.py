"""Summary and claims of the convolutional network, from the recorded tables alone.

For cross-entropy the smoother is the sensitivity of the telescoped logits to the one-hot labels,
and "effective parameters" applies the formula of squared loss to it.  That is not bounded by the
number of training points: a logit that is free to fit its label answers a change of it by 1/p,
where p is the probability of the class, so the sensitivity may grow as the network becomes sure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.convolutional_network.names import (
    LAST_LAYER,
    LAZY,
    TELESCOPED,
    TEST,
    TRAIN,
    group_name,
    layer_column,
    layers,
)
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import Estimate, estimate, final_rows, seed_record

SOURCE = "beyond the paper; Sections 3 and 4.1 for a network with ten outputs"
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
    """Final errors, effective parameters and shares of layers at every level of label noise.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers, by level of noise.
    """
    final = final_rows(history)
    summary: dict[str, Any] = {}
    for level in case.data.label_noise:
        part = _group(final, level)
        values: dict[str, Any] = {
            column.replace("/", "_"): float(part[column].mean()) for column in _PLAIN
        }
        for column in (TRAIN, TEST):
            found = estimate(part[column], part[column + "_stderr"])
            values[column.replace("/", "_")] = found.value
            values[column.replace("/", "_") + "_stderr"] = found.stderr
        for name in ("train", "test"):
            values[f"{name}_share"] = {
                layer.replace(".", "_"): estimate(share).record
                for layer, share in layer_shares(part, name).items()
            }
        summary[group_name(level)] = values
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


def claims(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims on the last record of every member.

    The claim that compares levels of label noise is left out where there is one level only.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    final = final_rows(history)
    found = [
        _closer_than_lazy(case, final),
        _train_exceeds_test(case, final),
        _convolutions_hold_most(case, final),
        _noise_widens_gap(case, final),
    ]
    return [claim for claim in found if claim is not None]


def _closer_than_lazy(case: ConvolutionalNetworkCase, final: pd.DataFrame) -> Claim:
    limit = case.claims.closer_than_lazy
    smallest = float(np.finfo(np.float32).tiny)
    ratios = {}
    for level in case.data.label_noise:
        part = _group(final, level)
        telescoped = part[TELESCOPED].clip(lower=smallest)
        ratios[group_name(level)] = part[LAZY].clip(lower=smallest) / telescoped
    return Claim(
        id="closer-than-lazy",
        statement=(
            "After training, the telescoped logits are at least "
            f"{limit:g} times closer to the network's on test points than those of the "
            "linearisation at initialisation, in every run."
        ),
        source=SOURCE,
        observed={
            "lazy_over_telescoped_error": {
                name: seed_record(values) for name, values in ratios.items()
            }
        },
        threshold={"minimum": limit},
        holds=all(bool((values > limit).all()) for values in ratios.values()),
    )


def _train_exceeds_test(case: ConvolutionalNetworkCase, final: pd.DataFrame) -> Claim:
    gaps = {level: _gap(_group(final, level)) for level in case.data.label_noise}
    errors = case.claims.standard_errors
    return Claim(
        id="train-exceeds-test",
        statement=(
            "After training, the effective parameters used on training points exceed those used "
            "on test points, with and without label noise."
        ),
        source=SOURCE,
        observed={"gap": {group_name(level): gap.record for level, gap in gaps.items()}},
        threshold={"minimum": 0.0, "standard_errors": errors},
        holds=all(gap.surely_above(0.0, errors) for gap in gaps.values()),
    )


def _convolutions_hold_most(case: ConvolutionalNetworkCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    observed: dict[str, Any] = {}
    holds = True
    for level in case.data.label_noise:
        shares = layer_shares(_group(final, level), "train")
        together = estimate(1.0 - shares[LAST_LAYER])
        observed[group_name(level)] = {
            "convolutions": together.record,
            **{layer: estimate(share).record for layer, share in shares.items()},
        }
        holds &= together.surely_above(limits.convolution_share, limits.standard_errors)
    return Claim(
        id="convolutions-hold-most",
        statement=(
            f"After training, the convolutions together hold more than "
            f"{100 * limits.convolution_share:g} % of the effective parameters used on training "
            "points, and the last linear layer the rest, with and without label noise."
        ),
        source=SOURCE,
        observed={"share": observed},
        threshold={
            "minimum": limits.convolution_share,
            "standard_errors": limits.standard_errors,
        },
        holds=holds,
    )


def _noise_widens_gap(case: ConvolutionalNetworkCase, final: pd.DataFrame) -> Claim | None:
    least, most = min(case.data.label_noise), max(case.data.label_noise)
    if least == most:
        return None
    # Paired by seed, which removes what both levels share: images, weights, batches, probes.
    first, second = _group(final, least), _group(final, most)
    widening = (second[TRAIN] - second[TEST]) - (first[TRAIN] - first[TEST])
    measured = [part[column + "_stderr"] for part in (first, second) for column in (TRAIN, TEST)]
    found = estimate(widening, np.sqrt(sum(error**2 for error in measured)))
    errors = case.claims.standard_errors
    return Claim(
        id="label-noise-widens-gap",
        statement=(
            "Effective parameters on training points exceed those on test points by more when "
            f"{100 * most:g} % of the training labels are wrong than when {100 * least:g} % are."
        ),
        source=SOURCE,
        observed={
            "gap": {
                group_name(level): _gap(_group(final, level)).record for level in (least, most)
            },
            "widening": found.record,
        },
        threshold={"minimum": 0.0, "standard_errors": errors},
        holds=found.surely_above(0.0, errors),
    )


def _gap(part: pd.DataFrame) -> Estimate:
    errors = np.hypot(part[TRAIN + "_stderr"], part[TEST + "_stderr"])
    return estimate(part[TRAIN] - part[TEST], errors)


def _group(final: pd.DataFrame, label_noise: float) -> pd.DataFrame:
    """The members of one level of noise, one row per seed."""
    return final[final["group"] == group_name(label_noise)].set_index("seed")
