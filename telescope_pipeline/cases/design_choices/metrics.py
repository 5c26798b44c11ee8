"""Summary and claims of the design choices, from the recorded tables alone.

Choices of one seed share data, initial weights and batches, so they are compared in pairs: a claim
is about the mean difference over seeds and its standard error.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.design_choices.names import FIFTHS, by_fifth
from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import (
    Estimate,
    estimate,
    final_rows,
    seed_record,
    value_at,
)

SOURCE = "Section 5"
TRAIN, TEST = "train/effective_parameters", "test/effective_parameters"
ERRORS = ("closed_form/prediction_error", "closed_form/smoother_error")
# σ′ = f(1 − f) is at most 1/4, on either side of the kernel.
LARGEST_RATIO = 1 / 16

_FINAL = (
    "train/mse",
    "test/mse",
    "test/accuracy",
    TRAIN,
    TEST,
    "update/cosine",
    "rate/quantile10",
    "rate/median",
    "rate/quantile90",
    *ERRORS,
)


def summarize(case: DesignChoicesCase, history: pd.DataFrame) -> dict[str, Any]:
    """Final errors, effective parameters and kernel norms of every choice.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers by choice.
    """
    final = final_rows(history)
    summary: dict[str, Any] = {"choice": {}}
    for choice in case.training.choices:
        part = final[final["choice"] == choice.name]
        values: dict[str, float] = {}
        for column in _FINAL:
            at_end = _estimate(part, column)
            values[column.replace("/", "_")] = at_end.value
            values[column.replace("/", "_") + "_stderr"] = at_end.stderr
        values["early_contributions"] = estimate(_early_shares(case, history, choice.name)).value
        start = history[(history["choice"] == choice.name) & (history["step"] == 0)]
        values["initial_weights_left"] = estimate(start["gradient/weight"]).value
        for fifth in FIFTHS:
            norm = estimate(part[by_fifth("kernel_norm_mean", fifth)])
            values[f"kernel_norm_fifth_{fifth}"] = norm.value
        summary["choice"][choice.name] = values
    return summary


def claims(case: DesignChoicesCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims; one that needs a choice the case does not have is left out.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    choices = {choice.name for choice in case.training.choices}
    found = [_closed_forms(case, history)]
    if "plain" not in choices:
        return found
    if "momentum" in choices:
        found.append(_momentum_aligns_updates(case, history))
    if "weight_decay" in choices:
        found.append(_decay_forgets(case, history))
        found.append(_fewer_parameters(case, history, "weight_decay", "weight decay"))
    if "adaptive" in choices:
        found.append(_rates_spread(case, history))
    if "sigmoid" in choices:
        found.append(_sigmoid_shrinks_confident_rows(case, history))
        found.append(_fewer_parameters(case, history, "sigmoid", "a sigmoid output"))
        found.append(_fewer_at_equal_error(case, history))
    return found


def _closed_forms(case: DesignChoicesCase, history: pd.DataFrame) -> Claim:
    """Both errors are maxima over the run, so the last record has the largest."""
    limit = case.claims.closed_form_error
    final = final_rows(history)
    errors = {
        choice.name: {
            column.split("/")[1]: seed_record(final.loc[final["choice"] == choice.name, column])
            for column in ERRORS
        }
        for choice in case.training.choices
    }
    return Claim(
        id="closed-forms-are-what-the-lens-followed",
        statement=(
            "For every choice and seed, predictions written out as sums over all past gradients "
            "equal those that the lens followed step by step: both f̃ and S·Y + c, relative to the "
            "largest prediction, in float64, at first order and every step."
        ),
        source=SOURCE + ", Eqs. 11 to 13",
        observed={"largest_relative_difference": errors},
        threshold={"maximum": limit},
        holds=bool((final[list(ERRORS)] <= limit).all(axis=None)),
    )


def _momentum_aligns_updates(case: DesignChoicesCase, history: pd.DataFrame) -> Claim:
    errors = case.claims.standard_errors
    change = _paired(final_rows(history), "update/cosine", "momentum")
    return Claim(
        id="momentum-smooths-updates",
        statement=(
            "Momentum averages past gradients, so consecutive updates point the same way more than "
            "those of plain SGD do (mean cosine over the run)."
        ),
        source=SOURCE + ", Eq. 11",
        observed={"momentum_minus_plain": change.record},
        threshold={"momentum_minus_plain": 0.0, "standard_errors": errors},
        holds=change.surely_above(0.0, errors),
    )


def _decay_forgets(case: DesignChoicesCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    shares = {name: _early_shares(case, history, name) for name in ("plain", "weight_decay")}
    change = estimate(
        (shares["weight_decay"] - shares["plain"].loc[shares["weight_decay"].index]).tolist()
    )
    at_start = history[(history["step"] == 0) & (history["choice"] == "weight_decay")]
    left = at_start["gradient/weight"]
    return Claim(
        id="weight-decay-forgets-early-steps",
        statement=(
            f"With weight decay the first {100 * limits.early_part:g} % of the steps contribute a "
            "smaller part of what all steps add to the final parameters (norms of their "
            "contributions) than with plain SGD, and the initial weights are scaled down."
        ),
        source=SOURCE + ", Eq. 12",
        observed={
            "early_part_of_contributions": {
                name: seed_record(values) for name, values in shares.items()
            },
            "weight_decay_minus_plain": change.record,
            "factor_of_initial_weights": seed_record(left),
        },
        threshold={
            "weight_decay_minus_plain": 0.0,
            "factor_of_initial_weights": 1.0,
            "standard_errors": limits.standard_errors,
        },
        holds=change.surely_below(0.0, limits.standard_errors) and bool((left < 1.0).all()),
    )


def _rates_spread(case: DesignChoicesCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    final = final_rows(history)
    spreads = {
        name: _of(final, name)["rate/quantile90"] / _of(final, name)["rate/quantile10"]
        for name in ("plain", "adaptive")
    }
    spread = estimate(spreads["adaptive"])
    return Claim(
        id="adaptive-rates-spread",
        statement=(
            "Adaptive rates weigh parameters differently in the kernel: after training the rates "
            "of the parameters that had a gradient differ, the 90th percentile exceeding the 10th "
            f"by a factor of more than {limits.rate_spread:g}; plain SGD has one rate for all."
        ),
        source=SOURCE,
        observed={
            "rate_90th_over_10th": {name: seed_record(values) for name, values in spreads.items()}
        },
        threshold={
            "minimum": limits.rate_spread,
            "plain": 1.0,
            "standard_errors": limits.standard_errors,
        },
        holds=spread.surely_above(limits.rate_spread, limits.standard_errors)
        and bool((spreads["plain"] == 1.0).all()),
    )


def _sigmoid_shrinks_confident_rows(case: DesignChoicesCase, history: pd.DataFrame) -> Claim:
    errors = case.claims.standard_errors
    final = _of(final_rows(history), "sigmoid")
    ratios = {fifth: final[by_fifth("kernel_norm_ratio", fifth)] for fifth in FIFTHS}
    change = estimate(ratios[FIFTHS[-1]] - ratios[FIFTHS[0]])
    largest = max(float(values.max()) for values in ratios.values())
    return Claim(
        id="sigmoid-shrinks-kernel-of-confident-points",
        statement=(
            "A sigmoid output divides the norms of kernel rows by at least 16, and most where it "
            "is confident: at the end of training, the rows of the most confident fifth of the "
            "test points shrink more than those of the least confident fifth, relative to the "
            "same network without its sigmoid."
        ),
        source=SOURCE + ", Eq. 13",
        observed={
            "ratio_by_fifth": {f"{fifth}": seed_record(v) for fifth, v in ratios.items()},
            "confidence_by_fifth": {
                f"{fifth}": seed_record(final[by_fifth("confidence", fifth)]) for fifth in FIFTHS
            },
            "most_minus_least_confident": change.record,
        },
        threshold={
            "most_minus_least_confident": 0.0,
            "largest_ratio": LARGEST_RATIO,
            "standard_errors": errors,
        },
        # Rounding in float32 must not decide about points with a slope of exactly 1/4.
        holds=change.surely_below(0.0, errors) and largest <= LARGEST_RATIO * (1 + 1e-5),
    )


def _fewer_parameters(
    case: DesignChoicesCase, history: pd.DataFrame, name: str, words: str
) -> Claim:
    errors = case.claims.standard_errors
    final = final_rows(history)
    changes = {column.split("/")[0]: _paired(final, column, name) for column in (TRAIN, TEST)}
    return Claim(
        id=f"{name.replace('_', '-')}-lowers-effective-parameters",
        statement=(
            f"After the same number of steps {words} (learning rate {_rate(case, name):g}) leaves "
            f"fewer effective parameters than plain SGD (learning rate {_rate(case, 'plain'):g}), "
            "on training and on test points."
        ),
        source="Section 4.1 (seen there in grokking)" if name == "sigmoid" else "beyond the paper",
        observed={f"{name}_minus_plain": {of: c.record for of, c in changes.items()}},
        threshold={f"{name}_minus_plain": 0.0, "standard_errors": errors},
        holds=all(change.surely_below(0.0, errors) for change in changes.values()),
    )


def _fewer_at_equal_error(case: DesignChoicesCase, history: pd.DataFrame) -> Claim:
    """Compares where both choices have the training error at which the slower one ends."""
    errors = case.claims.standard_errors
    differences = []
    for seed, sigmoid in _members(history, "sigmoid").items():
        plain = _members(history, "plain")[seed]
        level = max(_lowest(sigmoid), _lowest(plain))
        differences.append(_at_error(sigmoid, level) - _at_error(plain, level))
    change = estimate(differences)
    return Claim(
        id="sigmoid-needs-fewer-at-equal-error",
        statement=(
            "At the lowest training error that both reach, a sigmoid output has spent fewer "
            "effective parameters on training points than plain SGD."
        ),
        source="beyond the paper",
        observed={"sigmoid_minus_plain": seed_record(differences)},
        threshold={"sigmoid_minus_plain": 0.0, "standard_errors": errors},
        holds=change.surely_below(0.0, errors),
    )


def _rate(case: DesignChoicesCase, name: str) -> float:
    (choice,) = (choice for choice in case.training.choices if choice.name == name)
    return choice.optimizer.learning_rate


def _early_shares(case: DesignChoicesCase, history: pd.DataFrame, name: str) -> pd.Series[float]:
    """By seed, the part of all contributions to the final parameters that early steps made."""
    shares = {}
    for seed, member in _members(history, name).items():
        step = case.claims.early_part * float(member["step"].iloc[-1])
        shares[seed] = value_at(member["step"], member["gradient/contribution_share"], step)
    return pd.Series(shares, dtype="float64")


def _members(history: pd.DataFrame, name: str) -> dict[int, pd.DataFrame]:
    parts = history[history["choice"] == name].groupby("seed", sort=True)
    return {int(str(seed)): part for seed, part in parts}


def _lowest(member: pd.DataFrame) -> float:
    return float(member["train/mse"].min())


def _at_error(member: pd.DataFrame, level: float) -> float:
    """p_train where training error first falls to a level, on a line between records."""
    error = member["train/mse"].to_numpy()
    spent = member[TRAIN].to_numpy()
    after = int((error <= level).argmax())
    if after == 0:
        return float(spent[0])
    part = (error[after - 1] - level) / (error[after - 1] - error[after])
    return float(spent[after - 1] + part * (spent[after] - spent[after - 1]))


def _of(final: pd.DataFrame, name: str) -> pd.DataFrame:
    return final[final["choice"] == name].set_index("seed")


def _paired(final: pd.DataFrame, column: str, name: str) -> Estimate:
    """Change from plain SGD to a choice, averaged over seeds."""
    plain, chosen = _of(final, "plain"), _of(final, name)
    seeds = chosen.index
    error = f"{column}_stderr"
    errors: list[float] = []
    if error in final:
        errors = ((chosen[error] ** 2 + plain.loc[seeds, error] ** 2) ** 0.5).tolist()
    return estimate(chosen[column] - plain.loc[seeds, column], errors)


def _estimate(part: pd.DataFrame, column: str) -> Estimate:
    return estimate(part[column], part.get(f"{column}_stderr", ()))
