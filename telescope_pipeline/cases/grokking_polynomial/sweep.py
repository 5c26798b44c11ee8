"""Which members a sweep over epsilons has."""

from __future__ import annotations

from telescope_pipeline.cases.grokking_polynomial.names import group_name
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: GrokkingPolynomialCase, seed: int) -> list[Member]:
    """One member per seed for every epsilon; a seed has its own problem and initialisation.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one epsilon form a group, and ``model.epsilon`` comes first.
    """
    return [
        member
        for epsilon in case.epsilons
        for member in replicates(group_name(epsilon), case.seeds, {"epsilon": epsilon})
    ]
