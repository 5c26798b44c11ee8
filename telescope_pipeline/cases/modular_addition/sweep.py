"""The members, one for each seed."""

from __future__ import annotations

from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates


def members(case: ModularAdditionCase) -> list[Member]:
    """One member per seed, with its own split and its own initialisation, all in one group."""
    return replicates("transformer", case.seeds, {})
