"""Events, final errors and effective parameters of the network that groks.

Memorisation, generalisation and divergence are what
:mod:`telescope_pipeline.study.findings.grokking` defines; their bounds are parameters of the case.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from telescope_pipeline.cases.grokking_network.schema import GrokkingNetworkCase
from telescope_pipeline.study.findings.complexity import TEST_COMPLEXITY, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.grokking import Events, detect, steps_of
from telescope_pipeline.study.findings.statistics import (
    estimates,
    final_rows,
    mean_steps,
    members_of,
    of_group,
)

_EVENTS = ("memorisation", "generalisation", "divergence")
_FINAL = (
    "train/mse",
    "test/mse",
    "train/accuracy",
    "test/accuracy",
    TRAIN_COMPLEXITY,
    TEST_COMPLEXITY,
    "test/approximation_error",
    "test/linearization_error",
    "test/smoother_error",
)


def events_of(case: GrokkingNetworkCase, part: pd.DataFrame) -> dict[int, Events]:
    """Detect the events of every member of one group, by seed."""
    return {seed: detect(member, case.claims) for seed, member in members_of(part).items()}


def summarize(case: GrokkingNetworkCase, history: pd.DataFrame) -> dict[str, Any]:
    """Numbers by group; the step of an event that some seed did not see is left out."""
    summary: dict[str, Any] = {}
    final = final_rows(history)
    for group, part in history.groupby("group", sort=False):
        events = events_of(case, part)
        steps = mean_steps({name: steps_of(events, name) for name in _EVENTS})
        summary[str(group)] = {"steps": steps, **estimates(of_group(final, group), _FINAL)}
    return summary
