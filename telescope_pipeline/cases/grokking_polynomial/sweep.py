"""The members, by epsilon and seed, and the names of their groups."""

from __future__ import annotations

from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates


def members(case: GrokkingPolynomialCase) -> list[Member]:
    """One member per epsilon and seed; a seed has its own problem and initialisation.

    Returns:
        The members, those of ``model.epsilon`` first.
    """
    return [
        member
        for epsilon in case.epsilons
        for member in replicates(group_name(epsilon), case.seeds, {"epsilon": epsilon})
    ]


def group_name(epsilon: float) -> str:
    """Group of the members with this epsilon."""
    return f"epsilon-{epsilon:g}"
