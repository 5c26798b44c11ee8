"""What members measured of the machine they ran on, held against the bounds of the claims."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from telescope_pipeline.cases.large_scale.metrics import allowed_by_count
from telescope_pipeline.cases.large_scale.schema import LargeScaleCase
from telescope_pipeline.cases.large_scale.sweep import WAYS, group_name, members

_SECONDS = "{}_cpu_seconds_a_step"


def costs(case: LargeScaleCase, timing: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what a step took, by size and way, and whether that is within the bounds.

    Args:
        case: The case.
        timing: What was noted of every member, by name.

    Returns:
        A line per size, and one per bound; none where nothing was measured.
    """
    limits, sizes = case.claims, sorted(case.data.rows)
    seconds: dict[int, dict[str, float]] = {}
    memory = 0.0
    for rows in sizes:
        names = [member.name for member in members(case) if member.group == group_name(rows)]
        found = [timing[name]["measured"] for name in names if "measured" in timing.get(name, {})]
        if len(found) < len(names):
            return []
        seconds[rows] = {way: fmean(each[_SECONDS.format(way)] for each in found) for way in WAYS}
        memory = max(memory, *(timing[name]["peak_memory_mb"] / 1000 for name in names))
    lines = [_line(rows, of) for rows, of in seconds.items()]
    allowed = limits.over_count * allowed_by_count(case)
    ratios = {way: max(of[way] / of["plain"] for of in seconds.values()) for way in WAYS}
    checks = [
        ("predictions over plain", ratios["predictions"], limits.predictions_over_plain),
        (f"{case.lens.probes} probes over plain", ratios["probes"], allowed),
        ("gigabytes of a process", memory, limits.memory_gb),
    ]
    for way in WAYS if len(sizes) > 1 else ():
        growth = seconds[sizes[-1]][way] / seconds[sizes[0]][way]
        checks.append((f"{way}, largest over smallest size", growth, limits.growth))
    return lines + [
        f"{what}: {value:.3g}, {'within' if value <= bound else 'above'} {bound:.3g}"
        for what, value, bound in checks
    ]


def _line(rows: int, seconds: Mapping[str, float]) -> str:
    told = (
        f"{way} {1e3 * taken:.2f} ms ({taken / seconds['plain']:.2f}×)"
        for way, taken in seconds.items()
    )
    return f"{rows:,} rows, processor time of a step: {', '.join(told)}"
