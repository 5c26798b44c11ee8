"""Which members a sweep over design choices has."""

from __future__ import annotations

from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: DesignChoicesCase, seed: int) -> list[Member]:
    """One member per choice and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one choice form a group.
    """
    return [
        member
        for choice in case.training.choices
        for member in replicates(choice.name, case.seeds, {"choice": choice.name})
    ]
