"""Which members a sweep over values of the user's has."""

from __future__ import annotations

from functools import partial

from telescope_pipeline.cases.own_model.names import file_stem, group_name
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: OwnModelCase, seed: int) -> list[Member]:
    """One member per combination of swept values and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one combination form a group.
    """
    return [
        member
        for values in case.combinations()
        for member in replicates(
            group_name(values),
            case.seeds,
            values,
            data=partial(file_stem, values),
        )
    ]
