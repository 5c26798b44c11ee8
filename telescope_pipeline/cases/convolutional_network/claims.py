"""Claims of the convolutional network, on the last record of every member."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from telescope_pipeline.cases.convolutional_network.metrics import layer_shares
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.cases.convolutional_network.sweep import (
    LAST_LAYER,
    LAZY,
    TELESCOPED,
    group_name,
)
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, smallest, surely_above
from telescope_pipeline.study.findings.complexity import (
    DEGREES_OF_FREEDOM,
    complexity_gap,
    probing_error,
)
from telescope_pipeline.study.findings.statistics import by_seed, estimate, final_rows, ratio

SOURCE = "beyond the paper; Sections 3 and 4.1 for a network with ten outputs"
SOURCE_COUNT = "beyond the paper; Ye (1998) for the predicted probabilities"


def claims(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; the one that compares levels of label noise needs more than one."""
    final, levels = final_rows(history), case.data.label_noise
    found = [*_of_every_level(case, final), _is_count(case, history)]
    if min(levels) < max(levels):
        found.append(_noise_is_fitted(case, final, min(levels), max(levels)))
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
    gaps = {
        name: estimate(*complexity_gap(part, "logit_sensitivity")) for name, part in parts.items()
    }
    yield finding(
        "train-logits-are-more-sensitive",
        "After training, logits are more sensitive to the training labels on training points than "
        "on test points, with and without label noise.",
        SOURCE,
        observed={"gap_of_sensitivities": gaps},
        threshold=bounds(limits, "standard_errors", minimum=0.0),
        holds=surely_above(gaps, 0.0, limits.standard_errors),
    )
    shares = {name: layer_shares(part) for name, part in parts.items()}
    together = {name: estimate(1.0 - by_layer[LAST_LAYER]) for name, by_layer in shares.items()}
    yield finding(
        "convolutions-hold-most",
        "After training, the convolutions together hold more than "
        f"{100 * limits.convolution_share:g} % of the degrees of freedom, and the last linear "
        "layer the rest, with and without label noise.",
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


def _is_count(case: ConvolutionalNetworkCase, history: pd.DataFrame) -> Claim:
    """A record that lies outside by no more than the probes' errors explain counts as inside."""
    n, allowed = case.data.train_size, case.claims.standard_errors
    found, error = history[DEGREES_OF_FREEDOM], probing_error(history, DEGREES_OF_FREEDOM)
    inside = (found >= -allowed * error) & (found <= n + allowed * error)
    return finding(
        "degrees-of-freedom-are-a-count",
        "At every record, the degrees of freedom of the predicted probabilities lie between 0 and "
        f"the {n} training points, up to {allowed:g} standard errors of probing.",
        SOURCE_COUNT,
        observed={"lowest": float(found.min()), "highest": float(found.max())},
        threshold=bounds(case.claims, "standard_errors", minimum=0.0, maximum=n),
        holds=bool(inside.all()),
    )


def _noise_is_fitted(
    case: ConvolutionalNetworkCase, final: pd.DataFrame, least: float, most: float
) -> Claim:
    limits = case.claims
    # Paired by seed, which removes what both levels share: images, weights, batches, probes.
    parts = first, second = [by_seed(final, group_name(level)) for level in (least, most)]
    errors = [probing_error(part, DEGREES_OF_FREEDOM) for part in parts]
    more = estimate(
        second[DEGREES_OF_FREEDOM] - first[DEGREES_OF_FREEDOM],
        (errors[0] ** 2 + errors[1] ** 2) ** 0.5,
    )
    return finding(
        "label-noise-takes-degrees-of-freedom",
        "After training, the predicted probabilities have more degrees of freedom when "
        f"{100 * most:g} % of the training labels are wrong than when {100 * least:g} % are.",
        SOURCE_COUNT,
        observed={
            "degrees_of_freedom": {
                group_name(level): estimate(part[DEGREES_OF_FREEDOM], error)
                for level, part, error in zip((least, most), parts, errors, strict=True)
            },
            "difference": more,
        },
        threshold=bounds(limits, "standard_errors", minimum=0.0),
        holds=more.surely_above(0.0, limits.standard_errors),
    )
