"""Which members a sweep over seeds has."""

from __future__ import annotations

from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: ModularAdditionCase, seed: int) -> list[Member]:
    """One member per seed: its own split and its own initialisation.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members, all in one group.
    """
    return replicates("transformer", case.seeds, {})
