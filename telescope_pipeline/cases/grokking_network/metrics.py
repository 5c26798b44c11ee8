"""Summary and claims of the network that groks, from the recorded tables alone.

Memorisation, generalisation and divergence are what
:mod:`telescope_pipeline.study.findings.grokking` defines; their bounds are parameters of the case.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.grokking_network.names import group_name
from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.grokking import (
    TEST_COMPLEXITY,
    TRAIN_COMPLEXITY,
    Events,
    complexity_gap,
    detect,
)
from telescope_pipeline.study.findings.statistics import (
    Estimate,
    estimate,
    final_rows,
    seed_record,
    value_at,
)

SOURCE = "Section 4.1, Figs. 4 and 12"
SOURCE_STANDARD = "Section 4.1, Fig. 13"

_COMPLEXITIES = {"train": TRAIN_COMPLEXITY, "test": TEST_COMPLEXITY}
_EVENTS = ("memorisation", "generalisation", "divergence")


def events_of(case: GrokkingNetworkCase, part: pd.DataFrame) -> dict[int, Events]:
    """Detect the events of every member of one group.

    Args:
        case: The case's parameters; its ``claims`` section holds the bounds.
        part: Records of members that differ by seed only.

    Returns:
        The events by seed.
    """
    limits = case.claims
    return {
        int(str(seed)): detect(
            member,
            memorised_accuracy=limits.memorised_accuracy,
            generalised_accuracy=limits.generalised_accuracy,
            divergence_errors=limits.divergence_errors,
            divergence_gap=limits.divergence_gap,
            confirmations=limits.confirmations,
        )
        for seed, member in part.groupby("seed", sort=True)
    }


def summarize(case: GrokkingNetworkCase, history: pd.DataFrame) -> dict[str, Any]:
    """Events, final errors and effective parameters of every group.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers by group; the step of an event that some seed did not see is left out.
    """
    summary: dict[str, Any] = {}
    final = final_rows(history)
    for group, part in history.groupby("group", sort=False):
        events = events_of(case, part)
        values: dict[str, Any] = {"steps": {}}
        for name in _EVENTS:
            steps = _steps(events, name)
            if steps is not None:
                values["steps"][name] = estimate(steps).value
        at_end = final[final["group"] == group]
        for column in (
            "train/mse",
            "test/mse",
            "train/accuracy",
            "test/accuracy",
            TRAIN_COMPLEXITY,
            TEST_COMPLEXITY,
            "test/approximation_error",
            "test/linearization_error",
            "test/smoother_error",
        ):
            if column in at_end:
                found = _estimate(at_end, column)
                values[column.replace("/", "_")] = found.value
                values[column.replace("/", "_") + "_stderr"] = found.stderr
        summary[str(group)] = values
    return summary


def claims(case: GrokkingNetworkCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims.

    A claim that compares settings which the case does not have is left out.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    parts = {alpha: _group(history, alpha, "linear") for alpha in sorted(case.model.alphas)}
    events = {alpha: events_of(case, part) for alpha, part in parts.items()}
    found: list[Claim | None] = []
    if parts:
        found = [
            _delayed_generalisation(case, events),
            _test_error_keeps_falling(case, parts, events),
            _complexities_diverge(case, parts, events),
            _gap_widens(case, parts, events),
        ]
    found += [
        _larger_scale_learns_later(case, events),
        _larger_scale_diverges_later(case, events),
        _standard_learns_early(case, history),
        _standard_needs_fewer(case, history),
        _sigmoid_needs_fewer(case, history),
        _smoother_explains_predictions(case, history),
    ]
    return [claim for claim in found if claim is not None]


_Parts = dict[float, pd.DataFrame]
_AllEvents = dict[float, dict[int, Events]]


def _delayed_generalisation(case: GrokkingNetworkCase, events: _AllEvents) -> Claim:
    limits = case.claims
    observed: dict[str, Any] = {}
    holds = True
    for alpha, by_seed in events.items():
        factors = [None if e.delay is None else e.delay.factor for e in by_seed.values()]
        seen = [factor for factor in factors if factor is not None]
        bounds = [e.delay.lower_bound for e in by_seed.values() if e.delay is not None]
        observed[_key(alpha)] = {
            "memorisation_step": _record(_steps(by_seed, "memorisation")),
            "generalisation_step": _record(_steps(by_seed, "generalisation")),
            "delay_factor": _record(seen if len(seen) == len(factors) else None),
            "delay_lower_bound": _record(bounds if len(bounds) == len(factors) else None),
        }
        holds &= len(seen) == len(factors) and min(seen) >= limits.minimum_delay
    return Claim(
        id="delayed-generalisation",
        statement=(
            f"With every enlarged initialisation and in every seed, test accuracy reaches "
            f"{100 * limits.generalised_accuracy:g} % for good at least {limits.minimum_delay:g} "
            "times as many steps into training as train accuracy reaches "
            f"{100 * limits.memorised_accuracy:g} %."
        ),
        source=SOURCE,
        observed=observed,
        threshold={
            "memorised_accuracy": limits.memorised_accuracy,
            "generalised_accuracy": limits.generalised_accuracy,
            "minimum_delay": limits.minimum_delay,
        },
        holds=holds,
    )


def _test_error_keeps_falling(
    case: GrokkingNetworkCase, parts: _Parts, events: _AllEvents
) -> Claim:
    limits = case.claims
    observed: dict[str, Any] = {}
    holds = True
    for alpha, part in parts.items():
        memorised = _steps(events[alpha], "memorisation")
        falls = None
        if memorised is not None:
            wrong = part.assign(wrong=1.0 - part["test/accuracy"])
            then = _at(wrong, "wrong", memorised)
            images = case.data.test_size
            # One test image at least, so that a perfect network leaves a finite factor.
            at_end = [max(value, 1 / images) for value in _final(wrong, "wrong")]
            falls = [before / after for before, after in zip(then, at_end, strict=True)]
        observed[_key(alpha)] = {"test_error_fall_factor": _record(falls)}
        holds &= falls is not None and min(falls) >= limits.minimum_fall
    return Claim(
        id="test-error-keeps-falling",
        statement=(
            "With every enlarged initialisation and in every seed, from memorisation to the end of "
            "training the share of misclassified test images still falls by a factor of at least "
            f"{limits.minimum_fall:g}."
        ),
        source=SOURCE,
        observed=observed,
        threshold={"minimum_fall": limits.minimum_fall},
        holds=holds,
    )


def _complexities_diverge(case: GrokkingNetworkCase, parts: _Parts, events: _AllEvents) -> Claim:
    limits = case.claims
    observed: dict[str, Any] = {}
    holds = True
    for alpha, part in parts.items():
        diverged = _steps(events[alpha], "divergence")
        generalised = [e.generalisation.step or math.inf for e in events[alpha].values()]
        gap = _gap(final_rows(part))
        observed[_key(alpha)] = {
            "divergence_step": _record(diverged),
            "gap_at_end": gap.record,
        }
        before = diverged is not None and all(
            early < late for early, late in zip(diverged, generalised, strict=True)
        )
        holds &= before and gap.surely_above(0.0, limits.standard_errors)
    return Claim(
        id="effective-parameters-diverge",
        statement=(
            "With every enlarged initialisation, the effective parameters used on training images "
            "come to exceed those used on test images before the network generalises, and stay "
            "above them to the end."
        ),
        source=SOURCE,
        observed=observed,
        threshold={
            "divergence_errors": limits.divergence_errors,
            "divergence_gap": limits.divergence_gap,
            "gap_at_end": 0.0,
            "standard_errors": limits.standard_errors,
        },
        holds=holds,
    )


def _gap_widens(case: GrokkingNetworkCase, parts: _Parts, events: _AllEvents) -> Claim:
    limits = case.claims
    observed: dict[str, Any] = {}
    holds = True
    for alpha, part in parts.items():
        memorised = _steps(events[alpha], "memorisation")
        generalised = _steps(events[alpha], "generalisation")
        widening = None
        if memorised is not None and generalised is not None:
            gap, error = complexity_gap(part)
            marked = part.assign(gap=gap, gap_stderr=error)
            changes = [
                late - early
                for early, late in zip(
                    _at(marked, "gap", memorised), _at(marked, "gap", generalised), strict=True
                )
            ]
            errors = np.hypot(
                _at(marked, "gap_stderr", memorised), _at(marked, "gap_stderr", generalised)
            )
            widening = estimate(changes, errors)
        observed[_key(alpha)] = {"widening": None if widening is None else widening.record}
        holds &= widening is not None and widening.surely_above(0.0, limits.standard_errors)
    return Claim(
        id="gap-widens-while-test-error-falls",
        statement=(
            "With every enlarged initialisation, the effective parameters on training images "
            "exceed those on test images by more at generalisation than at memorisation."
        ),
        source=SOURCE,
        observed=observed,
        threshold={"widening": 0.0, "standard_errors": limits.standard_errors},
        holds=holds,
    )


def _larger_scale_learns_later(case: GrokkingNetworkCase, events: _AllEvents) -> Claim | None:
    return _later(
        case,
        events,
        ("memorisation", "generalisation"),
        id="larger-scale-learns-later",
        statement=(
            "The larger the initial weights, the later the network memorises and the later it "
            "generalises."
        ),
    )


def _larger_scale_diverges_later(case: GrokkingNetworkCase, events: _AllEvents) -> Claim | None:
    return _later(
        case,
        events,
        ("divergence",),
        id="larger-scale-diverges-later",
        statement=(
            "The larger the initial weights, the later the effective parameters on training and "
            "test images diverge."
        ),
    )


def _later(
    case: GrokkingNetworkCase,
    events: _AllEvents,
    names: tuple[str, ...],
    *,
    id: str,
    statement: str,
) -> Claim | None:
    """Compare the steps of events between neighbouring alphas, paired by seed.

    Both alphas of a seed saw the same images in the same order, and started from multiples of the
    same weights.
    """
    if len(events) < 2:
        return None
    limits = case.claims
    observed: dict[str, Any] = {}
    holds = True
    for small, large in itertools.pairwise(events):
        changes: dict[str, Any] = {}
        for name in names:
            early, late = _steps(events[small], name), _steps(events[large], name)
            change = None
            if early is not None and late is not None:
                # Step 0 counts as step 1, since it has no logarithm.
                change = estimate(
                    math.log(max(b, 1.0) / max(a, 1.0)) for a, b in zip(early, late, strict=True)
                )
            changes[name] = None if change is None else change.record
            holds &= change is not None and change.surely_above(0.0, limits.standard_errors)
        observed[f"{small:g}-{large:g}"] = changes
    return Claim(
        id=id,
        statement=statement,
        source=SOURCE,
        observed={"log_ratio_of_steps": observed},
        threshold={"log_ratio_of_steps": 0.0, "standard_errors": limits.standard_errors},
        holds=holds,
    )


def _standard_learns_early(case: GrokkingNetworkCase, history: pd.DataFrame) -> Claim | None:
    part = _group(history, STANDARD_ALPHA, "linear")
    if part.empty:
        return None
    limits = case.claims
    events = events_of(case, part)
    generalised = _steps(events, "generalisation")
    return Claim(
        id="standard-initialisation-learns-early",
        statement=(
            "From the standard initialisation, in every seed, test accuracy reaches "
            f"{100 * limits.generalised_accuracy:g} % for good within {limits.early_steps} steps."
        ),
        source=SOURCE_STANDARD,
        observed={
            "memorisation_step": _record(_steps(events, "memorisation")),
            "generalisation_step": _record(generalised),
        },
        threshold={
            "early_steps": limits.early_steps,
            "generalised_accuracy": limits.generalised_accuracy,
        },
        holds=generalised is not None and max(generalised) <= limits.early_steps,
    )


def _standard_needs_fewer(case: GrokkingNetworkCase, history: pd.DataFrame) -> Claim | None:
    standard = _group(history, STANDARD_ALPHA, "linear")
    if standard.empty or not case.model.alphas:
        return None
    limits = case.claims
    reference = _at_generalisation(case, standard)
    observed: dict[str, Any] = {}
    holds = True
    for alpha in sorted(case.model.alphas):
        enlarged = _at_generalisation(case, _group(history, alpha, "linear"))
        if enlarged is None or reference is None:
            observed[_key(alpha)] = None
            holds = False
            continue
        observed[_key(alpha)] = {}
        for name, column in _COMPLEXITIES.items():
            factor = float(enlarged[column].mean() / reference[column].mean())
            more = _change(reference, enlarged, column)
            observed[_key(alpha)][name] = {"ratio_of_means": factor, "difference": more.record}
            holds &= factor >= limits.complexity_factor
            holds &= more.surely_above(0.0, limits.standard_errors)
    return Claim(
        id="standard-initialisation-needs-fewer",
        statement=(
            "When it generalises, every enlarged initialisation uses, on average over seeds, at "
            f"least {limits.complexity_factor:g} times as many effective parameters as the "
            "standard one does when it generalises, on training and on test images."
        ),
        source=SOURCE_STANDARD,
        observed={"enlarged_against_standard": observed},
        threshold={
            "complexity_factor": limits.complexity_factor,
            "difference": 0.0,
            "standard_errors": limits.standard_errors,
        },
        holds=holds,
    )


def _at_generalisation(case: GrokkingNetworkCase, part: pd.DataFrame) -> pd.DataFrame | None:
    """The record of every seed at which it generalised, if all did."""
    steps = _steps(events_of(case, part), "generalisation")
    if steps is None:
        return None
    members = (member for _, member in part.groupby("seed", sort=True))
    return pd.concat(
        member[member["step"] == step] for member, step in zip(members, steps, strict=True)
    )


def _sigmoid_needs_fewer(case: GrokkingNetworkCase, history: pd.DataFrame) -> Claim | None:
    final = final_rows(history)
    linear, sigmoid = (_group(final, STANDARD_ALPHA, output) for output in ("linear", "sigmoid"))
    if linear.empty or sigmoid.empty:
        return None
    limits = case.claims
    changes = {name: _change(linear, sigmoid, column) for name, column in _COMPLEXITIES.items()}
    return Claim(
        id="sigmoid-needs-fewer",
        statement=(
            "At the end of training from the standard initialisation, a sigmoid output lowers the "
            "effective parameters on training and on test images."
        ),
        source=SOURCE_STANDARD,
        observed={"sigmoid_minus_linear": {name: c.record for name, c in changes.items()}},
        threshold={"sigmoid_minus_linear": 0.0, "standard_errors": limits.standard_errors},
        holds=all(c.surely_below(0.0, limits.standard_errors) for c in changes.values()),
    )


def _smoother_explains_predictions(case: GrokkingNetworkCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    worst = {
        str(group): estimate(part.groupby("member", sort=False)["test/smoother_error"].max())
        for group, part in history.groupby("group", sort=False)
    }
    return Claim(
        id="smoother-explains-predictions",
        statement=(
            "At every recorded step the smoother that the effective parameters are computed from "
            "reproduces the network's test predictions, in every setting, up to a mean absolute "
            f"difference of {limits.smoother_error:g} (labels are 0 and 1)."
        ),
        source="Section 3",
        observed={"largest_mean_error": {group: error.record for group, error in worst.items()}},
        threshold={"maximum": limits.smoother_error, "standard_errors": limits.standard_errors},
        holds=all(
            error.surely_below(limits.smoother_error, limits.standard_errors)
            for error in worst.values()
        ),
    )


def _group(history: pd.DataFrame, alpha: float, output: str) -> pd.DataFrame:
    return history[history["group"] == group_name(alpha, output)]


def _key(alpha: float) -> str:
    return f"alpha-{alpha:g}"


def _steps(events: dict[int, Events], name: str) -> list[float] | None:
    """The step of an event in every seed, if all of them saw it."""
    steps = [getattr(event, name).step for event in events.values()]
    return None if any(step is None for step in steps) else [float(step) for step in steps]


def _at(part: pd.DataFrame, column: str, steps: list[float]) -> list[float]:
    """A column of every seed at a step of its own."""
    members = (member for _, member in part.groupby("seed", sort=True))
    return [
        value_at(member["step"], member[column], step)
        for member, step in zip(members, steps, strict=True)
    ]


def _final(part: pd.DataFrame, column: str) -> list[float]:
    """A column of every seed at its last record."""
    return [float(value) for value in final_rows(part).sort_values("seed")[column]]


def _gap(final: pd.DataFrame) -> Estimate:
    gap, error = complexity_gap(final)
    return estimate(gap, error)


def _change(first: pd.DataFrame, second: pd.DataFrame, column: str) -> Estimate:
    """Second minus first, paired by seed."""
    first, second = first.set_index("seed"), second.set_index("seed").loc[list(first["seed"])]
    error = f"{column}_stderr"
    errors = np.hypot(first[error], second[error]) if error in first else ()
    return estimate(second[column] - first[column], errors)


def _estimate(part: pd.DataFrame, column: str) -> Estimate:
    return estimate(part[column], part.get(f"{column}_stderr", ()))


def _record(values: list[float] | None) -> dict[str, float] | None:
    return None if values is None else seed_record(values)
