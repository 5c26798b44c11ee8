"""Claims of the approximation case, on the last record of every member.

The models compared here watch the same run, so every seed is a comparison without noise: a claim
holds if it does in every seed, and needs no error bar. The averages are reported with their spread
all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from telescope_pipeline.cases.approximation_quality.metrics import LAZY, lens_names, settings
from telescope_pipeline.cases.approximation_quality.schema import (
    ApproximationQualityCase,
    TrainingSetting,
)
from telescope_pipeline.cases.approximation_quality.sweep import group_name, lens_name
from telescope_pipeline.contract import Claim
from telescope_pipeline.schemas.sections import SGD
from telescope_pipeline.study.findings.claims import finding, largest, smallest
from telescope_pipeline.study.findings.statistics import by_seed, final_rows, positive, ratio

SOURCE = "Section 3, Fig. 2"

_Measured = dict[str, pd.Series]


def claims(case: ApproximationQualityCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; one that compares settings which the case does not have is left out."""
    final = final_rows(history)
    return [*_errors(case, final), *_accuracies(case, final)]


def _errors(case: ApproximationQualityCase, final: pd.DataFrame) -> Iterator[Claim]:
    limit = case.claims.closer_than_lazy
    yield _every_seed_exceeds(
        "closer-than-lazy",
        "At each setting's smallest learning rate, every telescoping approximation is at least "
        f"{limit:g} times closer to the network's test predictions than the linearisation at "
        "initialisation is.",
        "lazy_over_telescoped_error",
        {
            f"{group}/{name}": ratio(part[LAZY], part[_error(name)])
            for group, part in _smallest_rates(case, final)
            for name in lens_names(case)
        },
        limit,
    )
    if ratios := _first_over_second_order(case, final):
        yield _every_seed_exceeds(
            "second-order-closer",
            "At equal stride, second-order telescoping is closer to the network's test predictions "
            "than first order, in every setting.",
            "first_over_second_order_error",
            ratios,
            1.0,
            source="beyond the paper",
        )
    if ratios := _faster_over_slower(case, final):
        yield _every_seed_exceeds(
            "error-grows-with-learning-rate",
            "The telescoping error after training grows with the learning rate.",
            "error_at_larger_over_smaller_rate",
            ratios,
            1.0,
        )
    sgd = [s for s in case.training.settings if _is_plain_sgd(s)]
    adamw = [s for s in case.training.settings if s.optimizer.name == "adamw"]
    if sgd and adamw:
        yield _every_seed_exceeds(
            "adamw-needs-smaller-rate",
            "AdamW needs a smaller learning rate than SGD for the same telescoping error. The rate "
            "at which SGD has AdamW's error is read from SGD's rates, straight in log(rate) and "
            "log(error); SGD's largest rate stands for it where SGD's error never gets so large.",
            "sgd_over_adamw_rate_at_equal_error",
            _sgd_over_adamw(case, final, sgd[0], adamw[0]),
            1.0,
        )


def _accuracies(case: ApproximationQualityCase, final: pd.DataFrame) -> Iterator[Claim]:
    limit = case.claims.accuracy_gap
    gaps = {
        f"{group}/{name}": (part[f"test/accuracy@{name}"] - part["test/accuracy"]).abs()
        for group, part in _smallest_rates(case, final)
        for name in lens_names(case)
    }
    yield finding(
        "accuracy-matches",
        "At each setting's smallest learning rate, the test accuracy of every telescoping "
        f"approximation is within {100 * limit:g} point of the network's.",
        SOURCE,
        observed={"absolute_accuracy_difference": gaps},
        threshold={"maximum": limit},
        holds=largest(gaps) <= limit,
    )
    yield _every_seed_exceeds(
        "lazy-accuracy-departs",
        "The test accuracy of the linearisation at initialisation departs from the network's "
        f"by more than {100 * limit:g} point, in every setting.",
        "absolute_accuracy_difference",
        {
            group: (part["test/linearized_accuracy"] - part["test/accuracy"]).abs()
            for group, part in settings(case, final)
        },
        limit,
    )


def _every_seed_exceeds(
    id: str, statement: str, what: str, measured: _Measured, minimum: float, source: str = SOURCE
) -> Claim:
    """A claim that something was measured, and exceeds a bound in every seed of every group."""
    return finding(
        id,
        statement,
        source,
        observed={what: measured},
        threshold={"minimum": minimum},
        holds=bool(measured) and smallest(measured) > minimum,
    )


def _first_over_second_order(case: ApproximationQualityCase, final: pd.DataFrame) -> _Measured:
    variants = {(variant.order, variant.stride) for variant in case.lens.lenses}
    strides = sorted(stride for order, stride in variants if order == 2 and (1, stride) in variants)
    return {
        f"{group}/stride{stride}": ratio(*(part[_error(lens_name(o, stride))] for o in (1, 2)))
        for group, part in settings(case, final)
        for stride in strides
    }


def _faster_over_slower(case: ApproximationQualityCase, final: pd.DataFrame) -> _Measured:
    return {
        f"{setting.label}/{low:g}-{high:g}/{name}": ratio(
            *(_by_seed(final, setting, rate, name) for rate in (high, low))
        )
        for setting in case.training.settings
        for low, high in itertools.pairwise(sorted(setting.learning_rates))
        for name in lens_names(case)
    }


def _sgd_over_adamw(
    case: ApproximationQualityCase,
    final: pd.DataFrame,
    sgd: TrainingSetting,
    adamw: TrainingSetting,
) -> _Measured:
    ratios: _Measured = {}
    for name in lens_names(case):
        plain = {rate: _by_seed(final, sgd, rate, name) for rate in sgd.learning_rates}
        for rate in sorted(adamw.learning_rates):
            same = _rate_of(plain, _by_seed(final, adamw, rate, name))
            if same is not None:
                ratios[f"{rate:g}/{name}"] = same / rate
    return ratios


def _is_plain_sgd(setting: TrainingSetting) -> bool:
    optimizer = setting.optimizer
    return (
        isinstance(optimizer, SGD)
        and optimizer.momentum == optimizer.weight_decay == 0
        and setting.output == "linear"
    )


def _by_seed(
    final: pd.DataFrame, setting: TrainingSetting, rate: float, name: str
) -> pd.Series[float]:
    """Telescoping errors of one lens."""
    return positive(by_seed(final, group_name(setting.label, rate))[_error(name)])


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


def _smallest_rates(
    case: ApproximationQualityCase, final: pd.DataFrame
) -> Iterator[tuple[str, pd.DataFrame]]:
    for setting in case.training.settings:
        group = group_name(setting.label, min(setting.learning_rates))
        yield group, by_seed(final, group)


def _error(name: str) -> str:
    return f"test/approximation_error@{name}"
