"""Claims about design choices.

Choices of one seed share data, initial weights and batches, so they are compared in pairs: a claim
is about the mean difference over seeds and its standard error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from telescope_pipeline.cases.design_choices.metrics import ERRORS, early_shares
from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.cases.design_choices.sweep import FIFTHS, by_fifth
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, largest, surely_below
from telescope_pipeline.study.findings.complexity import COMPLEXITIES, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.statistics import (
    change,
    estimate,
    final_rows,
    members_of,
    of_group,
)

SOURCE = "Section 5"
# σ′ = f(1 − f) is at most 1/4, on either side of the kernel.
LARGEST_RATIO = 1 / 16

_Parts = Mapping[str, pd.DataFrame]


def claims(case: DesignChoicesCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; one that needs a choice the case does not have is left out."""
    names: list[str] = [choice.name for choice in case.training.choices]
    records = {name: of_group(history, name, "choice") for name in names}
    final = {name: final_rows(part).set_index("seed") for name, part in records.items()}
    found = [_closed_forms(case, final)]
    if "plain" not in names:
        return found
    if "momentum" in names:
        found.append(_momentum_aligns_updates(case, final))
    if "weight_decay" in names:
        found.append(_decay_forgets(case, records))
        found.append(_fewer_parameters(case, final, "weight_decay", "weight decay"))
    if "adaptive" in names:
        found.append(_rates_spread(case, final))
    if "sigmoid" in names:
        found.append(_sigmoid_shrinks_confident_rows(case, final["sigmoid"]))
        found.append(_fewer_parameters(case, final, "sigmoid", "a sigmoid output"))
        found.append(_fewer_at_equal_error(case, records))
    return found


def _closed_forms(case: DesignChoicesCase, final: _Parts) -> Claim:
    """Both errors are maxima over the run, so the last record has the largest."""
    limit = case.claims.closed_form_error
    errors = {
        name: {column.split("/")[1]: part[column] for column in ERRORS}
        for name, part in final.items()
    }
    return finding(
        "closed-forms-are-what-the-lens-followed",
        "For every choice and seed, predictions written out as sums over all past gradients "
        "equal those that the lens followed step by step: both f̃ and S·Y + c, relative to the "
        "largest prediction, in float64, at first order and every step.",
        SOURCE + ", Eqs. 11 to 13",
        observed={"largest_relative_difference": errors},
        threshold={"maximum": limit},
        holds=all(largest(of_choice) <= limit for of_choice in errors.values()),
    )


def _momentum_aligns_updates(case: DesignChoicesCase, final: _Parts) -> Claim:
    limits = case.claims
    more = change(final["plain"], final["momentum"], "update/cosine")
    return finding(
        "momentum-smooths-updates",
        "Momentum averages past gradients, so consecutive updates point the same way more than "
        "those of plain SGD do (mean cosine over the run).",
        SOURCE + ", Eq. 11",
        observed={"momentum_minus_plain": more},
        threshold=bounds(limits, "standard_errors", momentum_minus_plain=0.0),
        holds=more.surely_above(0.0, limits.standard_errors),
    )


def _decay_forgets(case: DesignChoicesCase, records: _Parts) -> Claim:
    limits = case.claims
    shares = {name: early_shares(case, records[name]) for name in ("plain", "weight_decay")}
    less = estimate(shares["weight_decay"] - shares["plain"].loc[shares["weight_decay"].index])
    decayed = records["weight_decay"]
    left = decayed.loc[decayed["step"] == 0, "gradient/weight"]
    return finding(
        "weight-decay-forgets-early-steps",
        f"With weight decay the first {100 * limits.early_part:g} % of the steps contribute a "
        "smaller part of what all steps add to the final parameters (norms of their "
        "contributions) than with plain SGD, and the initial weights are scaled down.",
        SOURCE + ", Eq. 12",
        observed={
            "early_part_of_contributions": shares,
            "weight_decay_minus_plain": less,
            "factor_of_initial_weights": left,
        },
        threshold=bounds(
            limits, "standard_errors", weight_decay_minus_plain=0.0, factor_of_initial_weights=1.0
        ),
        holds=less.surely_below(0.0, limits.standard_errors) and largest(left) < 1.0,
    )


def _rates_spread(case: DesignChoicesCase, final: _Parts) -> Claim:
    limits = case.claims
    spreads = {
        name: final[name]["rate/quantile90"] / final[name]["rate/quantile10"]
        for name in ("plain", "adaptive")
    }
    spread = estimate(spreads["adaptive"])
    return finding(
        "adaptive-rates-spread",
        "Adaptive rates weigh parameters differently in the kernel: after training the rates "
        "of the parameters that had a gradient differ, the 90th percentile exceeding the 10th "
        f"by a factor of more than {limits.rate_spread:g}; plain SGD has one rate for all.",
        SOURCE,
        observed={"rate_90th_over_10th": spreads},
        threshold=bounds(limits, "standard_errors", minimum=limits.rate_spread, plain=1.0),
        holds=spread.surely_above(limits.rate_spread, limits.standard_errors)
        and bool((spreads["plain"] == 1.0).all()),
    )


def _sigmoid_shrinks_confident_rows(case: DesignChoicesCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    ratios, confidence = (
        {fifth: final[by_fifth(quantity, fifth)] for fifth in FIFTHS}
        for quantity in ("kernel_norm_ratio", "confidence")
    )
    least, *_, most = ratios.values()
    less = estimate(most - least)
    return finding(
        "sigmoid-shrinks-kernel-of-confident-points",
        "A sigmoid output divides the norms of kernel rows by at least 16, and most where it "
        "is confident: at the end of training, the rows of the most confident fifth of the "
        "test points shrink more than those of the least confident fifth, relative to the "
        "same network without its sigmoid.",
        SOURCE + ", Eq. 13",
        observed={
            "ratio_by_fifth": ratios,
            "confidence_by_fifth": confidence,
            "most_minus_least_confident": less,
        },
        threshold=bounds(
            limits, "standard_errors", most_minus_least_confident=0.0, largest_ratio=LARGEST_RATIO
        ),
        # Rounding in float32 must not decide about points with a slope of exactly 1/4.
        holds=less.surely_below(0.0, limits.standard_errors)
        and largest(ratios) <= LARGEST_RATIO * (1 + 1e-5),
    )


def _fewer_parameters(case: DesignChoicesCase, final: _Parts, name: str, words: str) -> Claim:
    limits = case.claims
    rates: dict[str, float] = {
        choice.name: choice.optimizer.learning_rate for choice in case.training.choices
    }
    changes = {
        of: change(final["plain"], final[name], column) for of, column in COMPLEXITIES.items()
    }
    return finding(
        f"{name.replace('_', '-')}-lowers-effective-parameters",
        f"After the same number of steps {words} (learning rate {rates[name]:g}) leaves "
        f"fewer effective parameters than plain SGD (learning rate {rates['plain']:g}), "
        "on training and on test points.",
        "Section 4.1 (seen there in grokking)" if name == "sigmoid" else "beyond the paper",
        observed={f"{name}_minus_plain": changes},
        threshold={f"{name}_minus_plain": 0.0, "standard_errors": limits.standard_errors},
        holds=surely_below(changes, 0.0, limits.standard_errors),
    )


def _fewer_at_equal_error(case: DesignChoicesCase, records: _Parts) -> Claim:
    """Compares where both choices have the training error at which the slower one ends."""
    limits = case.claims
    plain = members_of(records["plain"])
    differences = []
    for seed, sigmoid in members_of(records["sigmoid"]).items():
        level = max(float(member["train/mse"].min()) for member in (sigmoid, plain[seed]))
        differences.append(_at_error(sigmoid, level) - _at_error(plain[seed], level))
    return finding(
        "sigmoid-needs-fewer-at-equal-error",
        "At the lowest training error that both reach, a sigmoid output has spent fewer "
        "effective parameters on training points than plain SGD.",
        "beyond the paper",
        observed={"sigmoid_minus_plain": np.array(differences)},
        threshold=bounds(limits, "standard_errors", sigmoid_minus_plain=0.0),
        holds=estimate(differences).surely_below(0.0, limits.standard_errors),
    )


def _at_error(member: pd.DataFrame, level: float) -> float:
    """p_train where training error first falls to a level, on a line between records."""
    error = member["train/mse"].to_numpy()
    spent = member[TRAIN_COMPLEXITY].to_numpy()
    after = int((error <= level).argmax())
    if after == 0:
        return float(spent[0])
    part = (error[after - 1] - level) / (error[after - 1] - error[after])
    return float(spent[after - 1] + part * (spent[after] - spent[after - 1]))
