"""The detector of grokking, on histories whose events are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.findings.complexity import complexity_gap
from telescope_pipeline.study.findings.grokking import (
    Events,
    Onset,
    delays,
    detect,
    onset,
    steps_of,
)

_STEPS = [0, 10, 20, 40, 80, 160, 320]


def _member(
    memorised: int = 20,
    generalised: int = 160,
    diverged: int = 80,
    *,
    error: float | None = 1.0,
    gap: float = 10.0,
) -> pd.DataFrame:
    """Events at these steps: below its bound before, above from then on."""
    steps = pd.Series(_STEPS)
    table = {
        "step": steps,
        "train/accuracy": np.where(steps >= memorised, 1.0, 0.6),
        "test/accuracy": np.where(steps >= generalised, 0.96, 0.5),
        "train/effective_parameters": np.where(steps >= diverged, 50.0 + gap, 50.0),
        "test/effective_parameters": np.full(len(steps), 50.0),
    }
    if error is not None:
        for name in ("train", "test"):
            table[f"{name}/effective_parameters_stderr"] = np.full(len(steps), error)
    return pd.DataFrame(table)


@dataclass(frozen=True)
class _Limits:
    confirmations: int = 2
    divergence_errors: float = 3.0
    divergence_gap: float = 0.0
    memorised_accuracy: float = 0.99
    generalised_accuracy: float = 0.95


def _detect(history: pd.DataFrame, confirmations: int = 2, errors: float = 3.0) -> Events:
    return detect(history, _Limits(confirmations, errors))


def _delay(events: Events) -> tuple[float, float]:
    """The delay and its lower bound."""
    found = delays({0: events})
    return float(found["delay_factor"][0]), float(found["delay_lower_bound"][0])


def test_events_are_found_where_they_were_put() -> None:
    events = _detect(_member(memorised=20, generalised=160, diverged=80))
    assert events.memorisation == Onset(step=20, after=10, last=320)
    assert events.generalisation == Onset(step=160, after=80, last=320)
    assert events.divergence == Onset(step=80, after=40, last=320)
    assert _delay(events) == (8, 4)


@pytest.mark.parametrize("step", _STEPS[:-1])
def test_each_event_moves_alone(step: int) -> None:
    moved = [
        _detect(_member(memorised=step)),
        _detect(_member(generalised=step)),
        _detect(_member(diverged=step)),
    ]
    found = [(e.memorisation.step, e.generalisation.step, e.divergence.step) for e in moved]
    assert found == [(step, 160, 80), (20, step, 80), (20, 160, step)]


def test_a_bound_that_is_touched_and_left_does_not_count() -> None:
    history = _member(memorised=20, generalised=20)
    history.loc[history["step"] == 80, "test/accuracy"] = 0.9
    events = _detect(history)
    assert events.generalisation == Onset(step=160, after=80, last=320)
    assert events.memorisation.step == 20


def test_an_accuracy_on_its_bound_has_reached_it() -> None:
    history = _member()
    history["test/accuracy"] = 0.95
    assert _detect(history).generalisation == Onset(step=0, after=None, last=320)


def test_what_never_happens_is_censored_at_the_last_record() -> None:
    events = _detect(_member(generalised=10**6))
    assert events.step("generalisation") is None
    assert events.generalisation == Onset(step=None, after=320, last=320)
    assert _delay(events) == pytest.approx((math.nan, 16), nan_ok=True)


def test_an_event_at_the_last_record_alone_is_not_confirmed() -> None:
    history = _member(generalised=320)
    assert _detect(history).generalisation == Onset(step=None, after=160, last=320)
    assert _detect(history, confirmations=1).generalisation == Onset(320, 160, 320)
    assert _detect(_member(generalised=160), confirmations=3).generalisation.step is None


def test_without_memorisation_there_is_no_delay() -> None:
    assert np.isnan(_delay(_detect(_member(memorised=10**6)))).all()


def test_memorisation_before_training_gives_no_delay() -> None:
    events = _detect(_member(memorised=0))
    assert events.memorisation == Onset(step=0, after=None, last=320)
    assert np.isnan(_delay(events)).all()


def test_generalisation_that_leads_is_a_delay_below_one() -> None:
    assert _delay(_detect(_member(memorised=160, generalised=20))) == (1 / 8, 1 / 16)
    # It may have held all along.
    assert _delay(_detect(_member(memorised=160, generalised=0))) == (0, 0)


def test_divergence_needs_a_gap_beyond_the_errors_of_both_sets() -> None:
    # Errors of 3 and 4 combine to 5: three of them are 15.
    for gap, found in ((14.9, None), (15.1, 80)):
        history = _member(gap=gap)
        history["train/effective_parameters_stderr"] = 3.0
        history["test/effective_parameters_stderr"] = 4.0
        assert _detect(history).divergence.step == found
        assert complexity_gap(history)[1].tolist() == [5.0] * len(_STEPS)


def test_a_smallest_gap_is_asked_for_beside_the_errors() -> None:
    history = _member(gap=10.0, error=0.01)
    for least, found in ((0.0, 80), (9.0, 80), (10.0, None)):
        assert detect(history, _Limits(divergence_gap=least)).divergence.step == found


def test_an_event_that_one_seed_did_not_see_is_missing_for_that_seed_alone() -> None:
    events = {0: _detect(_member()), 1: _detect(_member(generalised=10**6))}
    np.testing.assert_array_equal(steps_of(events, "generalisation"), [160, np.nan])
    found = delays(events)
    np.testing.assert_array_equal(found["memorisation_step"], [20, 20])
    np.testing.assert_array_equal(found["delay_factor"], [8, np.nan])
    # How late it must at least be is known all the same.
    np.testing.assert_array_equal(found["delay_lower_bound"], [4, 16])


def test_divergence_has_a_sign() -> None:
    assert _detect(_member(gap=-40.0)).divergence.step is None


def test_exact_effective_parameters_have_no_error() -> None:
    assert _detect(_member(error=None, gap=1e-9)).divergence.step == 80
    assert _detect(_member(error=0.0, gap=1e-9)).divergence.step == 80
    assert _detect(_member(error=None, gap=0.0)).divergence.step is None


def test_a_single_record_is_a_history() -> None:
    assert onset([5], [True], confirmations=1) == Onset(5, None, 5)
    assert onset([5], [True]) == Onset(None, None, 5)
    assert onset([5], [False]) == Onset(None, 5, 5)


def test_the_onset_agrees_with_its_definition_on_random_conditions() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        steps = np.cumsum(generator.integers(1, 9, size=7))
        holds = generator.random(7) < 0.7
        needed = int(generator.integers(1, 4))
        starts = [s for i, s in enumerate(steps) if holds[i:].all() and len(holds[i:]) >= needed]
        found = onset(steps.tolist(), holds.tolist(), confirmations=needed)
        assert found.step == (starts[0] if starts else None)
        failures = steps[~holds]
        assert found.after == (failures[-1] if len(failures) else None)
        assert found.last == steps[-1]


@pytest.mark.parametrize(
    ("steps", "holds", "confirmations", "message"),
    [
        ([], [], 1, "at least one step"),
        ([1, 2], [True], 1, "one condition for each"),
        ([2, 2], [True, True], 1, "do not increase"),
        ([1, 2], [True, True], 0, "at least 1, got 0"),
    ],
)
def test_unusable_histories_are_refused(
    steps: list[int], holds: list[bool], confirmations: int, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        onset(steps, holds, confirmations=confirmations)
