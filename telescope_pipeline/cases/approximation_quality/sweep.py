"""Which members a sweep over settings and learning rates has."""

from __future__ import annotations

from telescope_pipeline.cases.approximation_quality.names import group_name
from telescope_pipeline.cases.approximation_quality.schema import ApproximationQualityCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: ApproximationQualityCase, seed: int) -> list[Member]:
    """One member per setting, learning rate and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one setting and learning rate form a group.
    """
    return [
        member
        for setting in case.training.settings
        for rate in setting.learning_rates
        for member in replicates(
            group_name(setting.label, rate),
            case.seeds,
            {"setting": setting.label, "learning_rate": rate},
            data=lambda replicate: "shared",
        )
    ]
