"""Which members a sweep over tables and models has."""

from __future__ import annotations

from functools import partial

from telescope_pipeline.cases.boosting_vs_networks.names import file_stem
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: BoostingVsNetworksCase, seed: int) -> list[Member]:
    """One member per table, model and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one table and model form a group, and both models of a table and seed
        train on the same file.
    """
    return [
        member
        for table in case.data.tables
        for model in case.training.searches
        for member in replicates(
            f"{table}_{model}",
            case.seeds,
            {"table": table, "model": model},
            data=partial(file_stem, table),
        )
    ]
