"""The members, by size of the initial weights and seed, and the names of their groups."""

from __future__ import annotations

from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates


def members(case: GrokkingNetworkCase) -> list[Member]:
    """One member per seed for every alpha, and for every output at alpha = 1.

    Returns:
        The members; the enlarged ones, which take longest, come first.
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


def group_name(alpha: float, output: str) -> str:
    """Name of the members with this initial scale and output, e.g. ``alpha-6.0_linear``."""
    return f"alpha-{float(alpha)!r}_{output}"


def group_label(alpha: float, output: str) -> str:
    """A group as a figure names it."""
    label = f"α = {alpha:g}"
    return label if output == "linear" else f"{label}, {output} output"
