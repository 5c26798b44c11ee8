"""Claims of the depth case, on the last record of every member.

Both orders watch the same runs, and all networks of a seed share their data and batches, so what is
compared are ratios of errors within a seed, averaged as logarithms over seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from telescope_pipeline.cases.depth.metrics import breaking_depth
from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.cases.depth.sweep import ORDERS, error_column, group_name, lens_name
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import (
    bounds,
    finding,
    smallest,
    surely_above,
    surely_below,
)
from telescope_pipeline.study.findings.statistics import by_seed, estimate, final_rows, ratio

SOURCE = "beyond the paper; Eq. (5 i) and its second order, by depth"


def claims(case: DepthCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; one that compares what the case does not have is left out."""
    return list(_claims(case, final_rows(history)))


def _claims(case: DepthCase, final: pd.DataFrame) -> Iterator[Claim]:
    limits, architectures, depths = case.claims, case.model.architectures, sorted(case.model.depths)
    ends = [depths[0], depths[-1]]
    names = [group_name(architecture, depth) for architecture in architectures for depth in depths]
    groups = {name: by_seed(final, name) for name in names}
    reached = {name: part["train/accuracy"] for name, part in groups.items()}
    yield finding(
        "networks-train",
        "Networks of every depth and architecture train from their initialisation: train "
        f"accuracy is at least {100 * limits.trained_accuracy:g} % in every seed.",
        SOURCE,
        observed={"train_accuracy": reached},
        threshold={"minimum": limits.trained_accuracy},
        holds=smallest(reached) >= limits.trained_accuracy,
    )
    if len(depths) > 1:
        yield _larger(
            case,
            "first-order-error-grows-with-depth",
            "The first-order telescoping error after training is larger in the deepest network "
            "than in the shallowest, in every architecture.",
            "deepest_over_shallowest_error",
            {
                name: ratio(*(_error(final, name, depth, 1) for depth in reversed(ends)))
                for name in architectures
            },
            depths=ends,
        )
    if "plain" in architectures:
        yield _first_order_breaks(case, final)
    if "residual" in architectures:
        errors = {depth: estimate(_error(final, "residual", depth, 2)) for depth in depths}
        yield finding(
            "second-order-holds-in-residual-networks",
            "In residual networks the second-order telescoping error stays below "
            f"{limits.broken_error:g} at every depth.",
            SOURCE,
            observed={"error": errors},
            threshold=bounds(limits, "standard_errors", maximum=limits.broken_error),
            holds=surely_below(errors, limits.broken_error, limits.standard_errors),
        )
    yield _larger(
        case,
        "second-order-closer",
        "At equal stride, second order is closer to the network's test predictions than first "
        "order at every depth, in every architecture.",
        "first_over_second_order_error",
        {name: ratio(*(part[error_column(o)] for o in ORDERS)) for name, part in groups.items()},
    )
    if set(architectures) == {"plain", "residual"}:
        yield _larger(
            case,
            "plain-worse-than-residual",
            "At the largest depth, the telescoping error of either order is larger in plain "
            "networks than in residual ones.",
            "plain_over_residual_error",
            {
                lens_name(order): ratio(
                    *(_error(final, name, depths[-1], order) for name in ("plain", "residual"))
                )
                for order in ORDERS
            },
            depth=depths[-1],
        )


def _first_order_breaks(case: DepthCase, final: pd.DataFrame) -> Claim:
    limits = case.claims
    first, second = (breaking_depth(case, final, "plain", order) for order in ORDERS)
    rest = None if first is None else estimate(_error(final, "plain", first, 2))
    return finding(
        "first-order-breaks-where-second-holds",
        "In plain networks first-order telescoping breaks (mean error above "
        f"{limits.broken_error:g}) at a depth of the sweep at which second order still holds "
        "(mean error below it).",
        SOURCE,
        observed={
            "breaking_depth": {lens_name(1): first, lens_name(2): second},
            "second_order_error_where_first_breaks": rest,
        },
        threshold=bounds(limits, "broken_error", "standard_errors"),
        holds=rest is not None and rest.surely_below(limits.broken_error, limits.standard_errors),
    )


def _larger(
    case: DepthCase,
    id: str,
    statement: str,
    what: str,
    ratios: Mapping[Any, pd.Series[float]],
    **context: Any,
) -> Claim:
    """A claim that all ratios surely exceed one, by the mean of their logarithms over seeds."""
    limits = case.claims
    decades = {name: estimate(np.log10(values.to_numpy())) for name, values in ratios.items()}
    records = {
        name: {
            "geometric_mean": float(10 ** decades[name].value),
            "log10": decades[name].value,
            "log10_stderr": decades[name].stderr,
            "smallest": float(values.min()),
            "largest": float(values.max()),
        }
        for name, values in ratios.items()
    }
    return finding(
        id,
        statement,
        SOURCE,
        observed={**context, what: records},
        threshold=bounds(limits, "standard_errors", minimum=1.0),
        holds=surely_above(decades, 0.0, limits.standard_errors),
    )


def _error(final: pd.DataFrame, architecture: str, depth: int, order: int) -> pd.Series[float]:
    return by_seed(final, group_name(architecture, depth))[error_column(order)]
