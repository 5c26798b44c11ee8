"""Claims about boosting against networks; each must hold on every table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd

from telescope_pipeline.cases.boosting_vs_networks.metrics import Comparison, compare
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.cases.boosting_vs_networks.sweep import MODELS, NETWORK, TREES
from telescope_pipeline.contract import Claim
from telescope_pipeline.study.findings.claims import bounds, finding, surely_above
from telescope_pipeline.study.findings.statistics import Seeds, estimate

SOURCE = "Section 4.2, Figs. 5 and 14"


def claims(case: BoostingVsNetworksCase, history: pd.DataFrame) -> list[Claim]:
    """Evaluate the claims; one about a model that the case leaves out is left out too."""
    return list(_claims(case, compare(case, history)))


def _claims(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Iterator[Claim]:
    models = case.training.searches
    proportions = case.data.proportions
    if set(models) == set(MODELS):
        regular = {name: estimate(table.gaps(0.0)) for name, table in tables.items()}
        yield finding(
            "trees-beat-network-on-regular",
            "Without irregular examples in the test set the boosted trees' error is smaller "
            "than the network's.",
            SOURCE,
            observed={"gap": regular},
            threshold=bounds(case.claims, "standard_errors", gap=0.0),
            holds=surely_above(regular, 0.0, case.claims.standard_errors),
        )
        yield _grows(
            case,
            "gap-grows",
            "The network's error exceeds the trees' by more, the larger the part of irregular "
            "examples in the test set.",
            {name: {p: table.gaps(p) for p in proportions} for name, table in tables.items()},
        )
    if NETWORK in models:
        yield _grows(
            case,
            "network-kernel-norm-ratio-grows",
            "The largest norm of the network's tangent kernel over a test set, relative to "
            "the training set, grows with the part of irregular examples.",
            {
                name: {p: table.norm_ratios(NETWORK, p) for p in proportions}
                for name, table in tables.items()
            },
        )
    if TREES in models:
        yield _trees_bounded(case, tables)


def _grows(
    case: BoostingVsNetworksCase,
    id: str,
    statement: str,
    measured: dict[str, dict[float, Seeds]],
) -> Claim:
    """A claim that something grows from the first proportion to the last and never surely falls."""
    errors = case.claims.standard_errors
    overall, falls = {}, {}
    for table, values in measured.items():
        overall[table] = estimate(values[max(values)] - values[next(iter(values))])
        falls[table] = [
            f"{left:g}-{right:g}"
            for left, right in itertools.pairwise(values)
            if estimate(values[right] - values[left]).surely_below(0.0, errors)
        ]
    return finding(
        id,
        statement,
        SOURCE,
        observed={
            table: {
                "by_proportion": {p: estimate(at_p) for p, at_p in values.items()},
                "overall": overall[table],
                "falls": falls[table],
            }
            for table, values in measured.items()
        },
        threshold=bounds(case.claims, "standard_errors", overall=0.0),
        holds=surely_above(overall, 0.0, errors) and not any(falls.values()),
    )


def _trees_bounded(case: BoostingVsNetworksCase, tables: dict[str, Comparison]) -> Claim:
    limit = case.claims.trees_norm_ratio
    ratios = {
        name: {p: estimate(table.norm_ratios(TREES, p)) for p in table.proportions}
        for name, table in tables.items()
    }
    means = [ratio.value for by_p in ratios.values() for ratio in by_p.values()]
    furthest = max(abs(mean - 1) for mean in means)
    return finding(
        "trees-kernel-norm-ratio-near-one",
        "The largest norm of the trees' kernels over a test set, relative to the training set, "
        f"stays within {limit:g} of 1 whatever the part of irregular examples.",
        SOURCE,
        # A leaf always holds training rows, so no test row's norm exceeds theirs.
        observed={"ratio": ratios, "furthest_from_one": furthest, "largest": max(means)},
        threshold={"furthest_from_one": limit},
        holds=furthest <= limit,
    )
