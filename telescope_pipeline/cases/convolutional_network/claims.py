"""Claims of the convolutional network, on the last record of every member."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from telescope_pipeline.cases.convolutional_network.metrics import layer_shares
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.cases.convolutional_network.sweep import (
    LAST_LAYER,
    LAZY,
    TELESCOPED,
    TEST,
    TRAIN,
    group_name,
)
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, smallest, surely_above
from telescope_pipeline.study.findings.complexity import complexity_gap
from telescope_pipeline.study.findings.statistics import by_seed, estimate, final_rows, ratio

SOURCE = "beyond the paper; Sections 3 and 4.1 for a network with ten outputs"


def claims(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; the one that compares levels of label noise needs more than one."""
    final, levels = final_rows(history), case.data.label_noise
    found = list(_of_every_level(case, final))
    if min(levels) < max(levels):
        found.append(_noise_widens_gap(case, final, min(levels), max(levels)))
    return found


def _of_every_level(case: ConvolutionalNetworkCase, final: pd.DataFrame) -> Iterator[Claim]:
    limits = case.claims
    names = map(group_name, case.data.label_noise)
    parts = {name: by_seed(final, name) for name in names}
    ratios = {name: ratio(part[LAZY], part[TELESCOPED]) for name, part in parts.items()}
    yield finding(
        "closer-than-lazy",
        f"After training, the telescoped logits are at least {limits.closer_than_lazy:g} times "
        "closer to the network's on test points than those of the linearisation at "
        "initialisation, in every run.",
        SOURCE,
        observed={"lazy_over_telescoped_error": ratios},
        threshold={"minimum": limits.closer_than_lazy},
        holds=smallest(ratios) > limits.closer_than_lazy,
    )
    gaps = {name: estimate(*complexity_gap(part)) for name, part in parts.items()}
    yield finding(
        "train-exceeds-test",
        "After training, the effective parameters used on training points exceed those used "
        "on test points, with and without label noise.",
        SOURCE,
        observed={"gap": gaps},
        threshold=bounds(limits, "standard_errors", minimum=0.0),
        holds=surely_above(gaps, 0.0, limits.standard_errors),
    )
    shares = {name: layer_shares(part, "train") for name, part in parts.items()}
    together = {name: estimate(1.0 - by_layer[LAST_LAYER]) for name, by_layer in shares.items()}
    yield finding(
        "convolutions-hold-most",
        "After training, the convolutions together hold more than "
        f"{100 * limits.convolution_share:g} % of the effective parameters used on training "
        "points, and the last linear layer the rest, with and without label noise.",
        SOURCE,
        observed={
            "share": {
                name: {"convolutions": together[name]}
                | {layer: estimate(share) for layer, share in by_layer.items()}
                for name, by_layer in shares.items()
            }
        },
        threshold=bounds(limits, "standard_errors", minimum=limits.convolution_share),
        holds=surely_above(together, limits.convolution_share, limits.standard_errors),
    )


def _noise_widens_gap(
    case: ConvolutionalNetworkCase, final: pd.DataFrame, least: float, most: float
) -> Claim:
    limits = case.claims
    # Paired by seed, which removes what both levels share: images, weights, batches, probes.
    parts = first, second = [by_seed(final, group_name(level)) for level in (least, most)]
    growth = (second[TRAIN] - second[TEST]) - (first[TRAIN] - first[TEST])
    measured = [part[column + "_stderr"] for part in parts for column in (TRAIN, TEST)]
    widening = estimate(growth, np.sqrt(sum(error**2 for error in measured)))
    return finding(
        "label-noise-widens-gap",
        "Effective parameters on training points exceed those on test points by more when "
        f"{100 * most:g} % of the training labels are wrong than when {100 * least:g} % are.",
        SOURCE,
        observed={
            "gap": {
                group_name(level): estimate(*complexity_gap(part))
                for level, part in zip((least, most), parts, strict=True)
            },
            "widening": widening,
        },
        threshold=bounds(limits, "standard_errors", minimum=0.0),
        holds=widening.surely_above(0.0, limits.standard_errors),
    )
