"""Which members a sweep over sizes of the initial weights has."""

from __future__ import annotations

from telescope_pipeline.cases.grokking_network.names import group_name
from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.training.replicates import replicates


def members(case: GrokkingNetworkCase, seed: int) -> list[Member]:
    """One member per seed for every alpha, and for every output at alpha = 1.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one alpha and output form a group. The enlarged ones, which take
        longest, come first.
    """
    settings = [(alpha, "linear") for alpha in sorted(case.model.alphas, reverse=True)]
    settings += [(STANDARD_ALPHA, output) for output in case.training.comparison.outputs]
    return [
        member
        for alpha, output in settings
        for member in replicates(
            group_name(alpha, output), case.seeds, {"alpha": alpha, "output": output}
        )
    ]
