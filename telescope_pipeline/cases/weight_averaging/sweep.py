"""Which members a sweep over starts has."""

from __future__ import annotations

from telescope_pipeline.cases.weight_averaging import names
from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: WeightAveragingCase, seed: int) -> list[Member]:
    """One member per start (from scratch or pre-trained) and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one start form a group.
    """
    return [
        member
        for start in case.training.starts
        for member in replicates(
            start,
            case.seeds,
            {"setting": start},
            data=lambda replicate: names.file_stem(case.data.source, replicate),
        )
    ]
