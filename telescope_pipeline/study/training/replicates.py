"""Members of a sweep that differ by their seed, and the seeds that they derive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from telescope_core.seeds import derive_seed
from telescope_pipeline.contract import Member, Scalar


class SeedOf(Protocol):
    """Gives the seed of a purpose, e.g. ``seed_of("weights")``."""

    def __call__(self, *purpose: str | int) -> int:
        """Seed of what these words name together."""
        ...


def replicates(
    group: str,
    seeds: int,
    values: Mapping[str, Scalar],
    data: Callable[[int], str] = "seed-{}".format,
) -> list[Member]:
    """Members of one group, one for each seed.

    Args:
        group: Name of the group.
        seeds: How many members.
        values: Their sweep values.
        data: Stem of the data file of a seed; as a rule each seed has a file of its own.

    Returns:
        The members, by seed from 0.
    """
    return [
        Member(
            name=f"{group}_seed-{replicate}",
            group=group,
            seed=replicate,
            values=dict(values),
            data=data(replicate),
        )
        for replicate in range(seeds)
    ]


def seeds_of(member: Member, run_seed: int, *kind: str) -> SeedOf:
    """Derive seeds of a member by purpose.

    Members of other groups that have the same number share them, so what the sweep compares starts
    from the same weights and sees the same batches.

    Args:
        member: Whose number counts.
        run_seed: The run's seed.
        kind: The kind of case, and what else keeps members apart.

    Returns:
        The function from purposes to seeds.
    """

    def seed_of(*purpose: str | int) -> int:
        return derive_seed(run_seed, *kind, *purpose, member.seed)

    return seed_of
