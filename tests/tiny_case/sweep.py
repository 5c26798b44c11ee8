"""Which members the tiny case has."""

from __future__ import annotations

from telescope_pipeline.cases.tiny.schema import TinyCase
from telescope_pipeline.contract import Member


def members(case: TinyCase) -> list[Member]:
    """One member per width and seed."""
    return [
        Member(f"width-{w:04d}_seed-{s}", f"width-{w:04d}", s, {"width": w}, f"seed-{s}")
        for w in case.model.widths
        for s in range(case.seeds)
    ]
