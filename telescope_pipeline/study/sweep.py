"""Members and data sets of a sweep that differ by their seed, and how their files are named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from telescope_core.seeds import derive_seed
from telescope_pipeline.contract import Member, Prepared, Scalar

if TYPE_CHECKING:
    from telescope_pipeline.study.datasets.dataset import Dataset


def seed_stem(replicate: int, group: str = "") -> str:
    """``seed-0``, the stem of a file of this seed, or ``<group>_seed-0``."""
    return f"{group}_seed-{replicate}" if group else f"seed-{replicate}"


def replicates(
    group: str,
    seeds: int,
    values: Mapping[str, Scalar],
    data: Callable[[int], str] = seed_stem,
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
        Member(seed_stem(replicate, group), group, replicate, dict(values), data(replicate))
        for replicate in range(seeds)
    ]


def drawn_per_seed(
    name: str, seeds: int, draw: Callable[[int], Dataset], seed: int, *path: str
) -> Prepared:
    """Draw a data set anew for every seed of a case.

    Members of one seed share the draw, so differences between them are not differences between
    draws, while error bars over seeds include the draw.

    Args:
        name: Of the data, for the card.
        seeds: How many.
        draw: Draws the data from a seed, which is derived from the run's.
        seed: The run's.
        *path: What the draw is called when its seed is derived.

    Returns:
        One file per seed, with its card.
    """
    drawn = {
        seed_stem(replicate): draw(derive_seed(seed, *path, replicate))
        for replicate in range(seeds)
    }
    return Prepared(
        {stem: rows.tensors() for stem, rows in drawn.items()},
        {"name": name, "files": {stem: rows.card for stem, rows in drawn.items()}},
    )
