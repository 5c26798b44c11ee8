"""Events, final losses and accuracies, and effective parameters of the transformer that groks.

Memorisation, generalisation and divergence are what
:mod:`telescope_pipeline.study.findings.grokking` defines; their bounds are parameters of the case.
Further events say what a measure could have announced:

Rise
    Onset of: test accuracy exceeds its value at memorisation by at least ``claims.rise``.

Announcement
    The divergence, looked for in the records up to the first one with generalisation alone: what
    was known by then. Records after it can neither create nor undo it, so it stands even where the
    two numbers of effective parameters meet again once the rule has been learned.

Reversal
    The same with the two sets exchanged: p_test exceeds p_train. The sensitivity of logits has no
    ceiling, unlike that of the predictions of a squared loss: where the softmax is nearly certain,
    a label must move the logits far to move the probabilities. Which of the two sets needs more of
    it is an open question here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.study.findings.complexity import TEST_COMPLEXITY, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.grokking import Events, Onset, detect, onset, steps_of
from telescope_pipeline.study.findings.statistics import (
    estimates,
    final_rows,
    mean_steps,
    members_of,
)

EVENTS = ("memorisation", "rise", "generalisation", "announcement", "reversal", "divergence")
_FINAL = (
    "train/cross_entropy",
    "test/cross_entropy",
    "train/accuracy",
    "test/accuracy",
    "test/telescoped_accuracy",
    "test/linearized_accuracy",
    TRAIN_COMPLEXITY,
    TEST_COMPLEXITY,
    "train/degrees_of_freedom",
    "test/approximation_error",
    "test/linearization_error",
)


@dataclass(frozen=True)
class Grokking(Events):
    """What happened to one member, and when.

    Attributes:
        rise: Test accuracy comes to exceed its value at memorisation; None without memorisation.
        announcement: Divergence, as far as it was known at generalisation; None without
            generalisation.
        reversal: Divergence the other way round, as far as it was known at generalisation; None
            without generalisation.
    """

    rise: Onset | None
    announcement: Onset | None
    reversal: Onset | None


def events_of(case: ModularAdditionCase, history: pd.DataFrame) -> dict[int, Grokking]:
    """Detect the events of every member, by seed."""
    return {seed: _grokking(case, member) for seed, member in members_of(history).items()}


def _grokking(case: ModularAdditionCase, member: pd.DataFrame) -> Grokking:
    limits = case.claims
    events = detect(member, limits)
    rise = announcement = reversal = None
    memorised, generalised = events.step("memorisation"), events.step("generalisation")
    if memorised is not None:
        level = float(member.loc[member["step"] == memorised, "test/accuracy"].iloc[0])
        risen = member["test/accuracy"] >= level + limits.rise
        rise = onset(member["step"], risen, confirmations=limits.confirmations)
    if generalised is not None:
        until = member[member["step"] <= generalised]
        announcement = detect(until, limits).divergence
        reversal = detect(_exchanged(until), limits).divergence
    return Grokking(**vars(events), rise=rise, announcement=announcement, reversal=reversal)


def _exchanged(member: pd.DataFrame) -> pd.DataFrame:
    """The records with the effective parameters of the two sets exchanged."""
    pairs = [(TRAIN_COMPLEXITY + end, TEST_COMPLEXITY + end) for end in ("", "_stderr")]
    names = {a: b for one, other in pairs for a, b in ((one, other), (other, one))}
    return member.rename(columns=names)


def summarize(case: ModularAdditionCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers; the step of an event that some seed did not see is left out."""
    found = events_of(case, history)
    return {
        "steps": mean_steps({name: steps_of(found, name) for name in EVENTS}),
        "final": estimates(final_rows(history), _FINAL),
    }
