"""The members, by table, model and seed, and the names of models and test sets."""

from __future__ import annotations

from functools import partial

from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates, seed_stem

NETWORK, TREES = "network", "trees"
MODELS = (NETWORK, TREES)


def members(case: BoostingVsNetworksCase) -> list[Member]:
    """One member per table, model and seed; both models of a table and seed share a file."""
    return [
        member
        for table in case.data.tables
        for model in case.training.searches
        for member in replicates(
            f"{table}_{model}",
            case.seeds,
            {"table": table, "model": model},
            data=partial(seed_stem, group=table),
        )
    ]


def set_name(proportion: float) -> str:
    """Name of the test set with this part of irregular rows, e.g. ``test_p025``."""
    return f"test_p{round(100 * proportion):03d}"
