"""Events, final losses and accuracies, and degrees of freedom of the transformer that groks.

Memorisation and generalisation are what :mod:`telescope_pipeline.study.findings.grokking` defines;
their bounds are parameters of the case.  Further events say what a measure could have announced:

Rise
    Onset of: test accuracy exceeds its value at memorisation by at least ``claims.rise``.

Peak
    The first record with the most degrees of freedom of all: the fit answers to more training
    labels then than before and after.

Announcement
    The sensitivity of logits on training sums exceeds that on test sums: the divergence of the same
    module, looked for in the records up to the first one with generalisation alone: what was known
    by then. Records after it can neither create nor undo it. It compares sizes, which have no
    ceiling, and no counts.

Reversal
    The same with the two sets exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.study.findings.complexity import (
    DEGREES_OF_FREEDOM,
    TEST_SENSITIVITY,
    TRAIN_SENSITIVITY,
)
from telescope_pipeline.study.findings.grokking import Events, Onset, detect, onset, steps_of
from telescope_pipeline.study.findings.statistics import (
    estimates,
    final_rows,
    mean_steps,
    members_of,
)

EVENTS = ("memorisation", "peak", "rise", "generalisation", "announcement", "reversal")
SIZE: Literal["logit_sensitivity"] = "logit_sensitivity"
_FINAL = (
    "train/cross_entropy",
    "test/cross_entropy",
    "train/accuracy",
    "test/accuracy",
    "test/telescoped_accuracy",
    "test/linearized_accuracy",
    DEGREES_OF_FREEDOM,
    TRAIN_SENSITIVITY,
    TEST_SENSITIVITY,
    "test/approximation_error",
    "test/linearization_error",
)


@dataclass(frozen=True)
class Grokking(Events):
    """What happened to one member, and when.

    Attributes:
        peak: The record with the most degrees of freedom.
        rise: Test accuracy comes to exceed its value at memorisation; None without memorisation.
        announcement: Divergence, as far as it was known at generalisation; None without
            generalisation.
        reversal: Divergence the other way round, as far as it was known at generalisation; None
            without generalisation.
    """

    peak: Onset
    rise: Onset | None
    announcement: Onset | None
    reversal: Onset | None


def events_of(case: ModularAdditionCase, history: pd.DataFrame) -> dict[int, Grokking]:
    """Detect the events of every member, by seed."""
    return {seed: _grokking(case, member) for seed, member in members_of(history).items()}


def _grokking(case: ModularAdditionCase, member: pd.DataFrame) -> Grokking:
    limits = case.claims
    events = detect(member, limits, SIZE)
    rise = announcement = reversal = None
    memorised, generalised = events.step("memorisation"), events.step("generalisation")
    if memorised is not None:
        level = float(member.loc[member["step"] == memorised, "test/accuracy"].iloc[0])
        risen = member["test/accuracy"] >= level + limits.rise
        rise = onset(member["step"], risen, confirmations=limits.confirmations)
    if generalised is not None:
        until = member[member["step"] <= generalised]
        announcement = detect(until, limits, SIZE).divergence
        reversal = detect(_exchanged(until), limits, SIZE).divergence
    most = int(member[DEGREES_OF_FREEDOM].to_numpy().argmax())
    recorded = member["step"].to_numpy(dtype=int)
    peak = Onset(step=int(recorded[most]), after=None, last=int(recorded[-1]))
    return Grokking(
        **vars(events), peak=peak, rise=rise, announcement=announcement, reversal=reversal
    )


def _exchanged(member: pd.DataFrame) -> pd.DataFrame:
    """The records with the sensitivities of the two sets exchanged."""
    pairs = [(TRAIN_SENSITIVITY + end, TEST_SENSITIVITY + end) for end in ("", "_stderr")]
    names = {a: b for one, other in pairs for a, b in ((one, other), (other, one))}
    return member.rename(columns=names)


def summarize(case: ModularAdditionCase, history: pd.DataFrame) -> dict[str, Any]:
    """Nested numbers; the step of an event that some seed did not see is left out."""
    found = events_of(case, history)
    return {
        "steps": mean_steps({name: steps_of(found, name) for name in EVENTS}),
        "final": estimates(final_rows(history), _FINAL),
    }
