"""Claims of the network that groks: of all enlarged initialisations, and of the standard one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.grokking_network.metrics import events_of
from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.cases.grokking_network.sweep import group_name
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import (
    bounds,
    finding,
    largest,
    smallest,
    surely_above,
    surely_below,
)
from telescope_pipeline.study.findings.complexity import COMPLEXITIES, complexity_gap, widening
from telescope_pipeline.study.findings.grokking import Events, delays, steps_of
from telescope_pipeline.study.findings.statistics import (
    Seeds,
    at_end,
    at_steps,
    change,
    estimate,
    final_rows,
    log_ratio,
    members_of,
    of_group,
)

SOURCE = "Section 4.1, Figs. 4 and 12"
SOURCE_STANDARD = "Section 4.1, Fig. 13"

_Parts = dict[float, pd.DataFrame]
_Events = dict[float, dict[int, Events]]


def claims(case: GrokkingNetworkCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; one that compares settings which the case does not have is left out."""
    parts = {a: of_group(history, group_name(a, "linear")) for a in sorted(case.model.alphas)}
    events = {alpha: events_of(case, part) for alpha, part in parts.items()}
    found: list[Claim] = []
    if parts:
        found += _grokking(case, parts, events)
        found += _complexities(case, parts, events)
    if len(parts) > 1:
        found += _order_of_scales(case, events)
    return [*found, *_standard(case, history, parts), _smoother_is_trusted(case, history)]


def _grokking(case: GrokkingNetworkCase, parts: _Parts, events: _Events) -> Iterator[Claim]:
    limits = case.claims
    measured = {_key(alpha): delays(found) for alpha, found in events.items()}
    factors = {key: found["delay_factor"] for key, found in measured.items()}
    yield finding(
        "delayed-generalisation",
        "With every enlarged initialisation and in every seed, test accuracy reaches "
        f"{100 * limits.generalised_accuracy:g} % for good at least {limits.minimum_delay:g} "
        "times as many steps into training as train accuracy reaches "
        f"{100 * limits.memorised_accuracy:g} %.",
        SOURCE,
        observed=measured,
        threshold=bounds(limits, "memorised_accuracy", "generalised_accuracy", "minimum_delay"),
        holds=smallest(factors) >= limits.minimum_delay,
    )
    falls: dict[str, Seeds] = {}
    for alpha, part in parts.items():
        wrong = 1.0 - part["test/accuracy"]
        then = at_steps(part, wrong, steps_of(events[alpha], "memorisation"))
        # One test image at least, so that a perfect network leaves a finite factor.
        falls[_key(alpha)] = then / np.maximum(at_end(part, wrong), 1 / case.data.test_size)
    yield finding(
        "test-error-keeps-falling",
        "With every enlarged initialisation and in every seed, from memorisation to the end of "
        "training the share of misclassified test images still falls by a factor of at least "
        f"{limits.minimum_fall:g}.",
        SOURCE,
        observed={key: {"test_error_fall_factor": fall} for key, fall in falls.items()},
        threshold=bounds(limits, "minimum_fall"),
        holds=smallest(falls) >= limits.minimum_fall,
    )


def _complexities(case: GrokkingNetworkCase, parts: _Parts, events: _Events) -> Iterator[Claim]:
    limits = case.claims
    steps = {
        name: {alpha: steps_of(found, name) for alpha, found in events.items()}
        for name in ("memorisation", "generalisation", "divergence")
    }
    diverged = steps["divergence"]
    gaps = {alpha: estimate(*complexity_gap(final_rows(part))) for alpha, part in parts.items()}
    yield finding(
        "effective-parameters-diverge",
        "With every enlarged initialisation, the effective parameters used on training images "
        "come to exceed those used on test images before the network generalises, and stay "
        "above them to the end.",
        SOURCE,
        observed={
            _key(alpha): {"divergence_step": diverged[alpha], "gap_at_end": gaps[alpha]}
            for alpha in parts
        },
        threshold=bounds(limits, "divergence_errors", "divergence_gap")
        | bounds(limits, "standard_errors", gap_at_end=0.0),
        # Where generalisation was not seen, every divergence that was seen came before it.
        holds=all(
            bool((diverged[alpha] < np.nan_to_num(generalised, nan=np.inf)).all())
            for alpha, generalised in steps["generalisation"].items()
        )
        and surely_above(gaps, 0.0, limits.standard_errors),
    )
    growth = {
        _key(alpha): widening(part, steps["memorisation"][alpha], steps["generalisation"][alpha])
        for alpha, part in parts.items()
    }
    yield finding(
        "gap-widens-while-test-error-falls",
        "With every enlarged initialisation, the effective parameters on training images "
        "exceed those on test images by more at generalisation than at memorisation.",
        SOURCE,
        observed={key: {"widening": found} for key, found in growth.items()},
        threshold=bounds(limits, "standard_errors", widening=0.0),
        holds=surely_above(growth, 0.0, limits.standard_errors),
    )


def _order_of_scales(case: GrokkingNetworkCase, events: _Events) -> Iterator[Claim]:
    """Compare the steps of events between neighbouring alphas, paired by seed.

    Both alphas of a seed saw the same images in the same order, and started from multiples of the
    same weights.

    Yields:
        Whether larger weights memorise and generalise later, and whether they diverge later.
    """
    limits = case.claims
    for id, names, statement in (
        (
            "larger-scale-learns-later",
            ("memorisation", "generalisation"),
            "The larger the initial weights, the later the network memorises and the later it "
            "generalises.",
        ),
        (
            "larger-scale-diverges-later",
            ("divergence",),
            "The larger the initial weights, the later the effective parameters on training and "
            "test images diverge.",
        ),
    ):
        ratios = {
            f"{small:g}-{large:g}": {
                name: log_ratio(steps_of(events[small], name), steps_of(events[large], name))
                for name in names
            }
            for small, large in itertools.pairwise(events)
        }
        yield finding(
            id,
            statement,
            SOURCE,
            observed={"log_ratio_of_steps": ratios},
            threshold=bounds(limits, "standard_errors", log_ratio_of_steps=0.0),
            holds=all(surely_above(pair, 0.0, limits.standard_errors) for pair in ratios.values()),
        )


def _standard(case: GrokkingNetworkCase, history: pd.DataFrame, parts: _Parts) -> Iterator[Claim]:
    limits = case.claims
    linear, sigmoid = (
        of_group(history, group_name(STANDARD_ALPHA, output)) for output in ("linear", "sigmoid")
    )
    if linear.empty:
        return
    events = events_of(case, linear)
    generalised = steps_of(events, "generalisation")
    yield finding(
        "standard-initialisation-learns-early",
        "From the standard initialisation, in every seed, test accuracy reaches "
        f"{100 * limits.generalised_accuracy:g} % for good within {limits.early_steps} steps.",
        SOURCE_STANDARD,
        observed={
            "memorisation_step": steps_of(events, "memorisation"),
            "generalisation_step": generalised,
        },
        threshold=bounds(limits, "early_steps", "generalised_accuracy"),
        holds=largest(generalised) <= limits.early_steps,
    )
    if parts:
        yield _standard_needs_fewer(case, linear, parts)
    if sigmoid.empty:
        return
    first, second = (final_rows(part).set_index("seed") for part in (linear, sigmoid))
    changes = {name: change(first, second, column) for name, column in COMPLEXITIES.items()}
    yield finding(
        "sigmoid-needs-fewer",
        "At the end of training from the standard initialisation, a sigmoid output lowers the "
        "effective parameters on training and on test images.",
        SOURCE_STANDARD,
        observed={"sigmoid_minus_linear": changes},
        threshold=bounds(limits, "standard_errors", sigmoid_minus_linear=0.0),
        holds=surely_below(changes, 0.0, limits.standard_errors),
    )


def _standard_needs_fewer(
    case: GrokkingNetworkCase, standard: pd.DataFrame, parts: Mapping[float, pd.DataFrame]
) -> Claim:
    limits = case.claims
    reference = _at_generalisation(case, standard)
    observed: dict[str, Any] = {}
    holds = True
    for alpha, part in parts.items():
        enlarged = _at_generalisation(case, part)
        if enlarged is None or reference is None:
            observed[_key(alpha)], holds = None, False
            continue
        found = observed[_key(alpha)] = {}
        for name, column in COMPLEXITIES.items():
            factor = float(enlarged[column].mean() / reference[column].mean())
            more = change(reference, enlarged, column)
            found[name] = {"ratio_of_means": factor, "difference": more}
            holds &= factor >= limits.complexity_factor
            holds &= more.surely_above(0.0, limits.standard_errors)
    return finding(
        "standard-initialisation-needs-fewer",
        "When it generalises, every enlarged initialisation uses, on average over seeds, at "
        f"least {limits.complexity_factor:g} times as many effective parameters as the "
        "standard one does when it generalises, on training and on test images.",
        SOURCE_STANDARD,
        observed={"enlarged_against_standard": observed},
        threshold=bounds(limits, "complexity_factor")
        | bounds(limits, "standard_errors", difference=0.0),
        holds=holds,
    )


def _at_generalisation(case: GrokkingNetworkCase, part: pd.DataFrame) -> pd.DataFrame | None:
    """The record of every seed at which it generalised, if all did."""
    steps = steps_of(events_of(case, part), "generalisation")
    if np.isnan(steps).any():
        return None
    members = zip(members_of(part).values(), steps, strict=True)
    rows: list[pd.DataFrame] = [member[member["step"] == step] for member, step in members]
    return pd.concat(rows).set_index("seed")


def _smoother_is_trusted(case: GrokkingNetworkCase, history: pd.DataFrame) -> Claim:
    limits = case.claims
    worst = {
        group: estimate(part.groupby("member", sort=False)["test/smoother_error"].max())
        for group, part in history.groupby("group", sort=False)
    }
    return finding(
        "smoother-explains-predictions",
        "At every recorded step the smoother that the effective parameters are computed from "
        "reproduces the network's test predictions, in every setting, up to a mean absolute "
        f"difference of {limits.smoother_error:g} (labels are 0 and 1).",
        "Section 3",
        observed={"largest_mean_error": worst},
        threshold=bounds(limits, "standard_errors", maximum=limits.smoother_error),
        holds=surely_below(worst, limits.smoother_error, limits.standard_errors),
    )


def _key(alpha: float) -> str:
    return f"alpha-{alpha:g}"
