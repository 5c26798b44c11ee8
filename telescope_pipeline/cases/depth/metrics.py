"""Summary and claims of the depth case, from the recorded tables alone.

Both orders watch the same runs, and all networks of a seed share their data and batches, so what is
compared are ratios of errors within a seed, averaged as logarithms over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.depth.names import ORDERS, error_column, group_name, lens_name
from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.statistics import Estimate, estimate, final_rows, seed_record

SOURCE = "beyond the paper; Eq. (5 i) and its second order, by depth"
LAZY = "test/linearization_error"


def summarize(case: DepthCase, history: pd.DataFrame) -> dict[str, Any]:
    """Final errors of every architecture and depth, and where each order breaks.

    Args:
        case: The case's parameters.
        history: Records of all members.

    Returns:
        Nested numbers; ``breaks_at_depth`` leaves out what does not break within the sweep.
    """
    final = final_rows(history)
    summary: dict[str, Any] = {"breaks_at_depth": {}}
    for architecture in case.model.architectures:
        breaks = {
            lens_name(order): depth
            for order in ORDERS
            if (depth := breaking_depth(case, final, architecture, order)) is not None
        }
        if breaks:
            summary["breaks_at_depth"][architecture] = breaks
        for depth in sorted(case.model.depths):
            part = _group(final, architecture, depth)
            values: dict[str, float] = {}
            for column in ("train/mse", "test/mse", "train/accuracy", "test/accuracy"):
                values[column.replace("/", "_")] = float(part[column].mean())
            for column in (LAZY, *map(error_column, ORDERS)):
                error = estimate(part[column])
                name = column.replace("/", "_").replace("@", "_")
                values[name], values[name + "_stderr"] = error.value, error.stderr
            summary[group_name(architecture, depth)] = values
    return summary


def breaking_depth(
    case: DepthCase, final: pd.DataFrame, architecture: str, order: int
) -> int | None:
    """The smallest trained depth at which telescoping of one order is broken.

    Args:
        case: The case's parameters.
        final: Last record of every member.
        architecture: ``plain`` or ``residual``.
        order: Of the lens.

    Returns:
        The first depth whose error, averaged over seeds, exceeds ``claims.broken_error`` by more
        than ``claims.standard_errors``; None if there is none.
    """
    limits = case.claims
    for depth in sorted(case.model.depths):
        error = estimate(_group(final, architecture, depth)[error_column(order)])
        if error.surely_above(limits.broken_error, limits.standard_errors):
            return depth
    return None


def claims(case: DepthCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the case's claims on the last record of every member.

    A claim that compares depths or architectures which the case does not have is left out.

    Args:
        case: The case's parameters; its ``claims`` section holds every threshold.
        history: Records of all members.

    Returns:
        One claim per finding, whether it holds or not.
    """
    final = final_rows(history)
    found = [
        _networks_train(case, final),
        _first_order_grows(case, final),
        _first_order_breaks(case, final),
        _second_order_holds(case, final),
        _second_order_closer(case, final),
        _plain_worse(case, final),
    ]
    return [claim for claim in found if claim is not None]


def _networks_train(case: DepthCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    reached = {name: part["train/accuracy"] for name, part in _groups(case, final)}
    return Claim(
        id="networks-train",
        statement=(
            "Networks of every depth and architecture train from their initialisation: train "
            f"accuracy is at least {100 * limits.trained_accuracy:g} % in every seed."
        ),
        source=SOURCE,
        observed={"train_accuracy": {name: seed_record(part) for name, part in reached.items()}},
        threshold={"minimum": limits.trained_accuracy},
        holds=all(bool((part >= limits.trained_accuracy).all()) for part in reached.values()),
    )


def _first_order_grows(case: DepthCase, final: pd.DataFrame) -> Claim | None:
    shallowest, deepest = min(case.model.depths), max(case.model.depths)
    if shallowest == deepest:
        return None
    column = error_column(1)
    ratios: dict[str, pd.Series[float]] = {
        architecture: _ratio(
            _group(final, architecture, deepest)[column],
            _group(final, architecture, shallowest)[column],
        )
        for architecture in case.model.architectures
    }
    return Claim(
        id="first-order-error-grows-with-depth",
        statement=(
            "The first-order telescoping error after training is larger in the deepest network "
            "than in the shallowest, in every architecture."
        ),
        source=SOURCE,
        observed={
            "depths": [shallowest, deepest],
            "deepest_over_shallowest_error": _records(ratios),
        },
        threshold={"minimum": 1.0, "standard_errors": case.claims.standard_errors},
        holds=_all_surely_above_one(case, ratios),
    )


def _first_order_breaks(case: DepthCase, final: pd.DataFrame) -> Claim | None:
    if "plain" not in case.model.architectures:
        return None
    limits = case.claims
    first, second = (breaking_depth(case, final, "plain", order) for order in ORDERS)
    rest: dict[str, float] | None = None
    holds = False
    if first is not None:
        error = estimate(_group(final, "plain", first)[error_column(2)])
        rest = error.record
        holds = error.surely_below(limits.broken_error, limits.standard_errors)
    return Claim(
        id="first-order-breaks-where-second-holds",
        statement=(
            "In plain networks first-order telescoping breaks (mean error above "
            f"{limits.broken_error:g}) at a depth of the sweep at which second order still holds "
            "(mean error below it)."
        ),
        source=SOURCE,
        observed={
            "breaking_depth": {lens_name(1): first, lens_name(2): second},
            "second_order_error_where_first_breaks": rest,
        },
        threshold={
            "broken_error": limits.broken_error,
            "standard_errors": limits.standard_errors,
        },
        holds=holds,
    )


def _second_order_holds(case: DepthCase, final: pd.DataFrame) -> Claim | None:
    if "residual" not in case.model.architectures:
        return None
    limits = case.claims
    errors = {
        depth: estimate(_group(final, "residual", depth)[error_column(2)])
        for depth in sorted(case.model.depths)
    }
    return Claim(
        id="second-order-holds-in-residual-networks",
        statement=(
            "In residual networks the second-order telescoping error stays below "
            f"{limits.broken_error:g} at every depth."
        ),
        source=SOURCE,
        observed={"error": {str(depth): error.record for depth, error in errors.items()}},
        threshold={
            "maximum": limits.broken_error,
            "standard_errors": limits.standard_errors,
        },
        holds=all(
            error.surely_below(limits.broken_error, limits.standard_errors)
            for error in errors.values()
        ),
    )


def _second_order_closer(case: DepthCase, final: pd.DataFrame) -> Claim:
    ratios = {
        name: _ratio(part[error_column(1)], part[error_column(2)])
        for name, part in _groups(case, final)
    }
    return Claim(
        id="second-order-closer",
        statement=(
            "At equal stride, second order is closer to the network's test predictions than first "
            "order at every depth, in every architecture."
        ),
        source=SOURCE,
        observed={"first_over_second_order_error": _records(ratios)},
        threshold={"minimum": 1.0, "standard_errors": case.claims.standard_errors},
        holds=_all_surely_above_one(case, ratios),
    )


def _plain_worse(case: DepthCase, final: pd.DataFrame) -> Claim | None:
    if set(case.model.architectures) != {"plain", "residual"}:
        return None
    deepest = max(case.model.depths)
    plain, residual = (_group(final, name, deepest) for name in ("plain", "residual"))
    ratios = {
        lens_name(order): _ratio(plain[error_column(order)], residual[error_column(order)])
        for order in ORDERS
    }
    return Claim(
        id="plain-worse-than-residual",
        statement=(
            "At the largest depth, the telescoping error of either order is larger in plain "
            "networks than in residual ones."
        ),
        source=SOURCE,
        observed={"depth": deepest, "plain_over_residual_error": _records(ratios)},
        threshold={"minimum": 1.0, "standard_errors": case.claims.standard_errors},
        holds=_all_surely_above_one(case, ratios),
    )


def _groups(case: DepthCase, final: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for architecture in case.model.architectures:
        for depth in sorted(case.model.depths):
            yield group_name(architecture, depth), _group(final, architecture, depth)


def _group(final: pd.DataFrame, architecture: str, depth: int) -> pd.DataFrame:
    """The members of one group, one row per seed."""
    return final[final["group"] == group_name(architecture, depth)].set_index("seed")


def _ratio(above: pd.Series[float], below: pd.Series[float]) -> pd.Series[float]:
    """One ratio per seed, finite even where an error is zero."""
    smallest = float(np.finfo(np.float32).tiny)
    return above.clip(lower=smallest) / below.clip(lower=smallest)


def _in_decades(ratios: pd.Series[float]) -> Estimate:
    return estimate(np.log10(ratios.to_numpy()))


def _records(ratios: dict[str, pd.Series[float]]) -> dict[str, dict[str, float]]:
    """Geometric mean, extremes, and the mean logarithm that is tested, with its error."""
    records = {}
    for name, values in ratios.items():
        decades = _in_decades(values)
        records[name] = {
            "geometric_mean": float(10**decades.value),
            "log10": decades.value,
            "log10_stderr": decades.stderr,
            "smallest": float(values.min()),
            "largest": float(values.max()),
        }
    return records


def _all_surely_above_one(case: DepthCase, ratios: dict[str, pd.Series[float]]) -> bool:
    errors = case.claims.standard_errors
    return all(_in_decades(values).surely_above(0.0, errors) for values in ratios.values())
