"""Which members a sweep over levels of label noise has."""

from __future__ import annotations

from telescope_pipeline.cases.convolutional_network.names import file_stem, group_name
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.contract import Member


def members(case: ConvolutionalNetworkCase, seed: int) -> list[Member]:
    """One member per level of label noise and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one level form a group.
    """
    return [
        Member(
            name=file_stem(level, replicate),
            group=group_name(level),
            seed=replicate,
            values={"label_noise": float(level)},
            data=file_stem(level, replicate),
        )
        for level in case.data.label_noise
        for replicate in range(case.seeds)
    ]
