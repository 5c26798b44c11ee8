"""Summary and claims of the approximation case, from the recorded tables alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.approximation_quality.names import group_name, lens_name
from telescope_pipeline.cases.approximation_quality.schema import (
    ApproximationQualityCase,
    TrainingSetting,
)
from telescope_pipeline.contract import Claim
from telescope_pipeline.schemas.sections import SGD
from telescope_pipeline.study.findings.statistics import estimate, final_rows, seed_record

SOURCE = "Section 3, Fig. 2"
LAZY = "test/linearization_error"


def summarize(case: ApproximationQualityCase, history: pd.DataFrame) -> dict[str, Any]:
    """Final errors and accuracies of every setting.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers, by setting and quantity.
    """
    final = final_rows(history)
    summary: dict[str, Any] = {}
    for group, part in _settings(case, final):
        values: dict[str, Any] = {}
        for column in ("train/mse", "test/mse", "test/accuracy", "test/linearized_accuracy", LAZY):
            values[column.replace("/", "_")] = float(part[column].mean())
        for name in _lens_names(case):
            error = estimate(part[f"test/approximation_error@{name}"])
            values[name] = {
                "test_approximation_error": error.value,
                "test_approximation_error_stderr": error.stderr,
                "test_accuracy": float(part[f"test/accuracy@{name}"].mean()),
            }
        summary[group] = values
    return summary


def claims(case: ApproximationQualityCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims on the last record of every member.

    The models compared here watch the same run, so every seed is a comparison without noise: a
    claim holds if it does in every seed, and needs no error bar. The averages are reported with
    their spread all the same.

    A claim that compares settings which the case does not have is left out.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    final = final_rows(history)
    found = [
        _closer_than_lazy(case, final),
        _second_order_closer(case, final),
        _error_grows_with_rate(case, final),
        _adamw_needs_smaller_rate(case, final),
        _accuracy_matches(case, final),
        _lazy_accuracy_departs(case, final),
    ]
    return [claim for claim in found if claim is not None]


def _closer_than_lazy(case: ApproximationQualityCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    ratios = {
        f"{group}/{name}": _ratio(part[LAZY], part[f"test/approximation_error@{name}"])
        for group, part in _smallest_rates(case, final)
        for name in _lens_names(case)
    }
    return Claim(
        id="closer-than-lazy",
        statement=(
            "At each setting's smallest learning rate, every telescoping approximation is at "
            f"least {limits.closer_than_lazy:g} times closer to the network's test predictions "
            "than the linearisation at initialisation is."
        ),
        source=SOURCE,
        observed={"lazy_over_telescoped_error": _records(ratios)},
        threshold={"minimum": limits.closer_than_lazy},
        holds=_all_above(ratios, limits.closer_than_lazy),
    )


def _second_order_closer(case: ApproximationQualityCase, final: pd.DataFrame) -> Claim | None:
    variants = {(variant.order, variant.stride) for variant in case.lens.lenses}
    strides = sorted(stride for order, stride in variants if order == 2 and (1, stride) in variants)
    ratios = {
        f"{group}/stride{stride}": _ratio(
            part[f"test/approximation_error@{lens_name(1, stride)}"],
            part[f"test/approximation_error@{lens_name(2, stride)}"],
        )
        for group, part in _settings(case, final)
        for stride in strides
    }
    if not ratios:
        return None
    return Claim(
        id="second-order-closer",
        statement=(
            "At equal stride, second-order telescoping is closer to the network's test predictions "
            "than first order, in every setting."
        ),
        source="beyond the paper",
        observed={"first_over_second_order_error": _records(ratios)},
        threshold={"minimum": 1.0},
        holds=_all_above(ratios, 1.0),
    )


def _error_grows_with_rate(case: ApproximationQualityCase, final: pd.DataFrame) -> Claim | None:
    ratios: dict[str, pd.Series[float]] = {}
    for setting in case.training.settings:
        rates = sorted(setting.learning_rates)
        for low, high in itertools.pairwise(rates):
            slow = _group(final, group_name(setting.label, low))
            fast = _group(final, group_name(setting.label, high))
            for name in _lens_names(case):
                column = f"test/approximation_error@{name}"
                ratios[f"{setting.label}/{low:g}-{high:g}/{name}"] = _ratio(
                    fast[column], slow[column]
                )
    if not ratios:
        return None
    return Claim(
        id="error-grows-with-learning-rate",
        statement="The telescoping error after training grows with the learning rate.",
        source=SOURCE,
        observed={"error_at_larger_over_smaller_rate": _records(ratios)},
        threshold={"minimum": 1.0},
        holds=_all_above(ratios, 1.0),
    )


def _adamw_needs_smaller_rate(case: ApproximationQualityCase, final: pd.DataFrame) -> Claim | None:
    sgd = [s for s in case.training.settings if _is_plain_sgd(s)]
    adamw = [s for s in case.training.settings if s.optimizer.name == "adamw"]
    if not sgd or not adamw:
        return None
    ratios: dict[str, pd.Series[float]] = {}
    for name in _lens_names(case):
        column = f"test/approximation_error@{name}"
        plain = {rate: _errors(final, sgd[0], rate, column) for rate in sgd[0].learning_rates}
        for rate in sorted(adamw[0].learning_rates):
            level = _errors(final, adamw[0], rate, column)
            same = _rate_of(plain, level)
            if same is not None:
                ratios[f"{rate:g}/{name}"] = same / rate
    return Claim(
        id="adamw-needs-smaller-rate",
        statement=(
            "AdamW needs a smaller learning rate than SGD for the same telescoping error. The rate "
            "at which SGD has AdamW's error is read from SGD's rates, straight in log(rate) and "
            "log(error); SGD's largest rate stands for it where SGD's error never gets so large."
        ),
        source=SOURCE,
        observed={"sgd_over_adamw_rate_at_equal_error": _records(ratios)},
        threshold={"minimum": 1.0},
        holds=bool(ratios) and _all_above(ratios, 1.0),
    )


def _is_plain_sgd(setting: TrainingSetting) -> bool:
    optimizer = setting.optimizer
    return (
        isinstance(optimizer, SGD)
        and optimizer.momentum == optimizer.weight_decay == 0
        and setting.output == "linear"
    )


def _errors(
    final: pd.DataFrame, setting: TrainingSetting, rate: float, column: str
) -> pd.Series[float]:
    return _positive(_group(final, group_name(setting.label, rate))[column])


def _rate_of(
    errors: dict[float, pd.Series[float]], levels: pd.Series[float]
) -> pd.Series[float] | None:
    """The learning rate at which each seed's error reaches a level, at least.

    Args:
        errors: By learning rate, one error per seed.
        levels: One level per seed.

    Returns:
        One rate per seed, the largest rate where even its error stays below the level; None if some
        seed's level lies below its error at every rate, where nothing can be compared.
    """
    rates = np.array(sorted(errors))
    found: dict[int, float] = {}
    for seed, level in zip(levels.index.astype(int).tolist(), levels, strict=True):
        # An error that dips with the rate reaches a level first where its running maximum does.
        curve = np.maximum.accumulate([float(errors[rate].loc[seed]) for rate in rates])
        if level < curve[0]:
            return None
        found[seed] = float(np.exp(np.interp(np.log(level), np.log(curve), np.log(rates))))
    return pd.Series(found)


def _accuracy_matches(case: ApproximationQualityCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    gaps = {
        f"{group}/{name}": (part[f"test/accuracy@{name}"] - part["test/accuracy"]).abs()
        for group, part in _smallest_rates(case, final)
        for name in _lens_names(case)
    }
    return Claim(
        id="accuracy-matches",
        statement=(
            "At each setting's smallest learning rate, the test accuracy of every telescoping "
            f"approximation is within {100 * limits.accuracy_gap:g} point of the network's."
        ),
        source=SOURCE,
        observed={"absolute_accuracy_difference": _records(gaps)},
        threshold={"maximum": limits.accuracy_gap},
        holds=all(bool((gap <= limits.accuracy_gap).all()) for gap in gaps.values()),
    )


def _lazy_accuracy_departs(case: ApproximationQualityCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    gaps = {
        group: (part["test/linearized_accuracy"] - part["test/accuracy"]).abs()
        for group, part in _settings(case, final)
    }
    return Claim(
        id="lazy-accuracy-departs",
        statement=(
            "The test accuracy of the linearisation at initialisation departs from the network's "
            f"by more than {100 * limits.accuracy_gap:g} point, in every setting."
        ),
        source=SOURCE,
        observed={"absolute_accuracy_difference": _records(gaps)},
        threshold={"minimum": limits.accuracy_gap},
        holds=_all_above(gaps, limits.accuracy_gap),
    )


def _lens_names(case: ApproximationQualityCase) -> list[str]:
    return [lens_name(variant.order, variant.stride) for variant in case.lens.lenses]


def _settings(
    case: ApproximationQualityCase, final: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    for setting in case.training.settings:
        for rate in setting.learning_rates:
            group = group_name(setting.label, rate)
            yield group, _group(final, group)


def _smallest_rates(
    case: ApproximationQualityCase, final: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    for setting in case.training.settings:
        group = group_name(setting.label, min(setting.learning_rates))
        yield group, _group(final, group)


def _group(final: pd.DataFrame, group: str) -> pd.DataFrame:
    """The members of one group, one row per seed."""
    return final[final["group"] == group].set_index("seed")


def _ratio(above: pd.Series[float], below: pd.Series[float]) -> pd.Series[float]:
    """One ratio per seed, finite even where an error is zero."""
    return _positive(above) / _positive(below)


def _positive(errors: pd.Series[float]) -> pd.Series[float]:
    return errors.clip(lower=float(np.finfo(np.float32).tiny))


def _records(measured: dict[str, pd.Series[float]]) -> dict[str, dict[str, float]]:
    return {name: seed_record(values) for name, values in measured.items()}


def _all_above(measured: dict[str, pd.Series[float]], threshold: float) -> bool:
    """Whether every seed of every setting exceeds the threshold."""
    return all(bool((values > threshold).all()) for values in measured.values())
