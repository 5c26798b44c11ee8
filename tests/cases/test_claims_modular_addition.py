"""Claims of the transformer that groks hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from telescope_pipeline.cases.modular_addition.claims import claims
from telescope_pipeline.cases.modular_addition.metrics import events_of, summarize
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Claim

_STEPS = np.unique(np.round(np.logspace(0, 3, 60)).astype(int))
_TRAIN_FIRST = {"train-exceeds-test-before-generalisation", "train-exceeds-test-before-rise"}
_TEST_FIRST = {"test-exceeds-train-before-generalisation", "test-exceeds-train-before-rise"}
_COUNT = {
    "degrees-of-freedom-peak-before-generalisation",
    "degrees-of-freedom-peak-before-rise",
    "degrees-of-freedom-fewer-while-test-error-falls",
    "degrees-of-freedom-fewer-at-the-end",
    "degrees-of-freedom-are-a-count",
}
_REST = {"delayed-generalisation", "closer-than-lazy", "telescoped-model-generalises-too"}


def _case(**changes: Any) -> ModularAdditionCase:
    return ModularAdditionCase.model_validate(
        {
            "kind": "modular_addition",
            "seeds": 2,
            "data": {"modulus": 17, "train_fraction": 0.7},
            "model": {"width": 32, "heads": 4, "hidden": 64},
            "training": {"steps": 1000, "optimizer": {"name": "adamw", "learning_rate": 0.003}},
            "lens": {},
            "claims": {},
            "plot": {},
        }
        | changes
    )


def _history(
    *,
    memorised: float = 40,
    rise: float = 160,
    generalised: float = 300,
    diverged: float = 80,
    gap: float = 60.0,
    closes: float | None = None,
    telescoped_error: float = 0.05,
    telescoped_accuracy: float = 0.98,
    linearized_accuracy: float = 0.1,
    stderr: float = 1.0,
    peak: float = 100,
    most: float = 90.0,
    end: float = 40.0,
    counting_error: float = 1.0,
) -> pd.DataFrame:
    """Two seeds of a made-up run, the second one 1.05 times slower.

    Test accuracy is 20 % until ``rise``, 50 % until ``generalised`` and 98 % from then on. From
    ``diverged`` on the gap grows to ``gap`` as the logarithm of the step does, and it is gone from
    ``closes`` on. Degrees of freedom rise to ``most`` at ``peak`` and fall to ``end`` afterwards.
    """
    parts = []
    for seed, slower in ((0, 1.0), (1, 1.05)):
        t = _STEPS / slower
        test = np.select([t < rise, t < generalised], [0.2, 0.5], 0.98)
        difference = gap * np.clip(np.log(t / diverged) / np.log(1000 / diverged), 0, None)
        if closes is not None:
            difference = np.where(t >= closes, 0.0, difference)
        parts.append(
            pd.DataFrame(
                {
                    "member": f"transformer_seed-{seed}",
                    "group": "transformer",
                    "seed": seed,
                    "step": _STEPS,
                    "train/cross_entropy": 0.1,
                    "test/cross_entropy": 0.5,
                    "train/accuracy": np.where(t < memorised, 0.3, 1.0),
                    "test/accuracy": test,
                    "test/telescoped_accuracy": telescoped_accuracy,
                    "test/linearized_accuracy": linearized_accuracy,
                    "train/degrees_of_freedom": np.interp(
                        np.log(t), np.log([1, peak, 1000]), [0.0, most, end]
                    ),
                    "train/degrees_of_freedom_stderr": counting_error,
                    "train/logit_sensitivity": 300 + difference,
                    "test/logit_sensitivity": 300.0,
                    "train/logit_sensitivity_stderr": stderr,
                    "test/logit_sensitivity_stderr": stderr,
                    "test/approximation_error": telescoped_error,
                    "test/linearization_error": 1.0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _evaluate(history: pd.DataFrame, case: ModularAdditionCase | None = None) -> dict[str, Claim]:
    found = {claim.id: claim for claim in claims(case or _case(), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    assert set(found) == _TRAIN_FIRST | _TEST_FIRST | _COUNT | _REST
    return found


def _holding(found: dict[str, Claim]) -> set[str]:
    return {name for name, claim in found.items() if claim.holds}


def test_the_sign_of_the_gap_decides_between_the_two_directions() -> None:
    assert _holding(_evaluate(_history())) == _TRAIN_FIRST | _COUNT | _REST
    assert _holding(_evaluate(_history(gap=-60.0))) == _TEST_FIRST | _COUNT | _REST


def test_the_lead_is_counted_per_seed_with_its_standard_error() -> None:
    history = _history()
    found = _evaluate(history)["train-exceeds-test-before-generalisation"].observed
    case, leads = _case(), []
    for grokking in events_of(case, history).values():
        late, early = grokking.step("generalisation"), grokking.step("announcement")
        assert late is not None
        assert early is not None
        leads.append(late - early)
    assert found["lead_in_steps"]["value"] == pytest.approx(np.mean(leads))
    assert found["lead_in_steps"]["stderr"] == pytest.approx(abs(leads[0] - leads[1]) / 2)
    assert found["lead_in_steps"]["stderr"] > 0


def test_a_gap_that_comes_late_announces_nothing() -> None:
    after_rise = _evaluate(_history(diverged=175))
    assert _TRAIN_FIRST & _holding(after_rise) == {"train-exceeds-test-before-generalisation"}
    afterwards = _evaluate(_history(diverged=400))
    assert not _TRAIN_FIRST & _holding(afterwards)
    observed: Any = afterwards["train-exceeds-test-before-generalisation"].observed
    assert observed["train_exceeds_test_step"] is None
    assert observed["lead_in_steps"] is None


def test_a_gap_that_closes_after_generalisation_was_an_announcement_all_the_same() -> None:
    history = _history(closes=600)
    found = _evaluate(history)
    assert _holding(found) >= _TRAIN_FIRST
    for grokking in events_of(_case(), history).values():
        assert grokking.step("divergence") is None
        assert grokking.step("announcement") is not None
    # One that closes before generalisation was none.
    assert not _TRAIN_FIRST & _holding(_evaluate(_history(closes=250)))


def test_probing_errors_can_hide_the_gap() -> None:
    found = _evaluate(_history(stderr=40.0))
    assert _holding(found) == _COUNT | _REST


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"peak": 175}, {"degrees-of-freedom-peak-before-rise"}),
        ({"most": 210.0}, {"degrees-of-freedom-are-a-count"}),
        ({"end": -5.0}, {"degrees-of-freedom-are-a-count"}),
        ({"end": 85.0}, {"degrees-of-freedom-fewer-at-the-end"}),
        (
            {"counting_error": 20.0},
            {"degrees-of-freedom-fewer-while-test-error-falls"},
        ),
    ],
)
def test_the_claims_about_degrees_of_freedom(changes: dict[str, float], fails: set[str]) -> None:
    assert _COUNT - _holding(_evaluate(_history(**changes))) >= fails


def test_degrees_of_freedom_that_only_grow_announce_nothing() -> None:
    found = _evaluate(_history(peak=999, most=90.0, end=90.0))
    assert _holding(found) & _COUNT == {"degrees-of-freedom-are-a-count"}


def test_without_a_delay_or_without_generalisation_the_claim_fails() -> None:
    early = _evaluate(_history(rise=50, generalised=90))
    assert not early["delayed-generalisation"].holds
    never = _evaluate(_history(generalised=5000))
    # The telescoped accuracy of the table belongs to a network that has generalised.
    assert _holding(never) == {
        "degrees-of-freedom-peak-before-rise",
        "degrees-of-freedom-fewer-at-the-end",
        "degrees-of-freedom-are-a-count",
        "closer-than-lazy",
    }
    delayed: Any = never["delayed-generalisation"].observed
    assert delayed["generalisation_step"] is None
    assert delayed["delay_lower_bound"]["value"] == pytest.approx(1000 / 42, rel=0.1)


def test_without_memorisation_nothing_is_counted_from_it() -> None:
    never = _evaluate(_history(memorised=5000))
    assert "delayed-generalisation" not in _holding(never)
    observed: Any = never["train-exceeds-test-before-rise"].observed
    assert observed["rise_step"] is None


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"telescoped_error": 0.2}, "closer-than-lazy"),
        ({"telescoped_accuracy": 0.9}, "telescoped-model-generalises-too"),
        ({"linearized_accuracy": 0.97}, "telescoped-model-generalises-too"),
    ],
)
def test_a_model_that_is_off_or_a_lazy_one_that_is_right(
    changes: dict[str, float], claim: str
) -> None:
    assert _holding(_evaluate(_history(**changes))) == (_TRAIN_FIRST | _COUNT | _REST) - {claim}


def test_one_seed_out_of_line_is_enough_to_fail_a_claim_about_every_seed() -> None:
    history = _history()
    slow = (history["seed"] == 1) & (history["step"] == history["step"].max())
    history.loc[slow, "test/approximation_error"] = 0.2
    found = _evaluate(history)["closer-than-lazy"]
    assert not found.holds
    assert found.observed["factor"]["smallest"] == pytest.approx(5)


def test_exact_measures_need_no_error_columns() -> None:
    history = _history().filter(regex="^(?!.*_stderr$)")
    assert _holding(_evaluate(history)) == _TRAIN_FIRST | _COUNT | _REST
    assert "steps" in summarize(_case(), history)


def test_summary_holds_steps_and_final_numbers() -> None:
    summary = summarize(_case(), _history())
    assert summary["final"]["test_accuracy"] == pytest.approx(0.98)
    assert summary["final"]["train_degrees_of_freedom"] == pytest.approx(40.5, abs=0.5)
    assert summary["final"]["train_degrees_of_freedom_stderr"] >= 1 / 2**0.5
    steps = summary["steps"]
    assert steps["memorisation"] < steps["announcement"] < steps["rise"] < steps["generalisation"]
    assert steps["memorisation"] < steps["peak"] < steps["rise"]
    assert "reversal" not in steps


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"data": {"modulus": 2, "train_fraction": 0.99}}, "train_fraction"),
        ({"model": {"width": 32, "heads": 5, "hidden": 64}}, "heads"),
        ({"lens": {"probes": 4000}}, "lens.probes"),
        ({"lens": {"probes": 4, "deflate": 5}}, "deflate"),
        ({"lens": {"stride": 1001}}, "lens.stride"),
    ],
)
def test_impossible_combinations_name_the_leaf(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _case(**changes)
    (error,) = caught.value.errors()
    assert error["ctx"]["field"] == path


def test_a_batch_larger_than_the_training_set_is_refused() -> None:
    training = {"steps": 10, "optimizer": {"name": "adamw", "learning_rate": 0.1}}
    assert _case(training=training | {"batch_size": 202}, lens={"stride": 4})
    with pytest.raises(ValidationError, match="the 202 training sums"):
        _case(training=training | {"batch_size": 203}, lens={"stride": 4})
