"""The members, by choice and seed, and the names of choices and columns."""

from __future__ import annotations

from telescope_pipeline.cases.design_choices.schema import DesignChoicesCase
from telescope_pipeline.contract import Member
from telescope_pipeline.study.sweep import replicates

LABELS = {
    "plain": "plain SGD",
    "momentum": "momentum",
    "weight_decay": "weight decay",
    "adaptive": "adaptive rates",
    "sigmoid": "sigmoid output",
}

FIFTHS = (1, 2, 3, 4, 5)
"""Fifths of the test points by confidence, the least confident first."""


def members(case: DesignChoicesCase) -> list[Member]:
    """One member per choice and seed."""
    return [
        member
        for choice in case.training.choices
        for member in replicates(choice.name, case.seeds, {"choice": choice.name})
    ]


def by_fifth(quantity: str, fifth: int) -> str:
    """Column of a quantity averaged over one fifth of the test points."""
    return f"test/{quantity}@fifth-{fifth}"
