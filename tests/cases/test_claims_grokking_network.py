"""Claims of the network that groks hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from telescope_pipeline.cases.grokking_network.claims import claims
from telescope_pipeline.cases.grokking_network.metrics import events_of, summarize
from telescope_pipeline.cases.grokking_network.schema import GrokkingNetworkCase
from telescope_pipeline.cases.grokking_network.sweep import group_name
from telescope_pipeline.contract import Claim

_STEPS = np.unique(np.round(np.logspace(0, 3.5, 80)).astype(int))
_ALL = {
    "delayed-generalisation",
    "test-error-keeps-falling",
    "effective-parameters-diverge",
    "gap-widens-while-test-error-falls",
    "larger-scale-learns-later",
    "larger-scale-diverges-later",
    "standard-initialisation-learns-early",
    "standard-initialisation-needs-fewer",
    "sigmoid-needs-fewer",
    "smoother-explains-predictions",
}


def _case(outputs: tuple[str, ...] = ("linear", "sigmoid"), **limits: float) -> GrokkingNetworkCase:
    return GrokkingNetworkCase.model_validate(
        {
            "kind": "grokking_network",
            "seeds": 2,
            "data": {"source": "digits", "train_size": 150, "test_size": 300},
            "model": {"hidden": [50, 50], "alphas": [6.0, 4.0]},
            "training": {
                "steps": 3000,
                "batch_size": 150,
                "optimizer": {"name": "adamw", "learning_rate": 0.001},
                "comparison": {"steps": 3000, "outputs": list(outputs)},
            },
            "lens": {},
            "claims": limits,
            "plot": {},
        }
    )


def _group(
    alpha: float,
    output: str,
    *,
    memorised: float,
    delay: float,
    train: float,
    test: float,
    diverged: float = 0.5,
    floor: float = 0.03,
    smoother_error: float = 0.02,
) -> pd.DataFrame:
    """Two seeds of a made-up group.

    Train error falls as a power of the step to reach 1 % at ``memorised``, test error reaches 10 %
    ``delay`` times later. Effective parameters end at ``train`` and ``test``; half of their final
    difference is there at ``diverged`` times the step of memorisation.
    """
    parts = []
    for seed, factor in ((0, 0.97), (1, 1.03)):
        t = _STEPS / factor
        growth = np.minimum(1.0, (t / memorised) ** 2)
        spread = 1 / (1 + (diverged * memorised / t) ** 2)
        p_test = test * growth
        parts.append(
            pd.DataFrame(
                {
                    "member": f"{group_name(alpha, output)}_seed-{seed}",
                    "group": group_name(alpha, output),
                    "seed": seed,
                    "alpha": alpha,
                    "output": output,
                    "step": _STEPS,
                    "train/mse": 0.1,
                    "test/mse": 0.1,
                    "train/accuracy": 1 - np.minimum(0.5, 0.01 * (memorised / t) ** 2),
                    "test/accuracy": 1
                    - np.maximum(floor, np.minimum(0.5, 0.1 * memorised * delay / t)),
                    "train/effective_parameters": p_test + (train - test) * spread,
                    "test/effective_parameters": p_test,
                    "train/effective_parameters_stderr": 0.3,
                    "test/effective_parameters_stderr": 0.4,
                    "test/smoother_error": smoother_error,
                    "test/approximation_error": 0.01,
                    "test/linearization_error": 1.0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


_GROUPS: dict[str, tuple[float, str, dict[str, float]]] = {
    "small": (4.0, "linear", {"memorised": 200, "delay": 4, "train": 150, "test": 90}),
    "large": (6.0, "linear", {"memorised": 400, "delay": 4, "train": 150, "test": 80}),
    "standard": (1.0, "linear", {"memorised": 120, "delay": 1, "train": 40, "test": 30}),
    "sigmoid": (1.0, "sigmoid", {"memorised": 120, "delay": 1, "train": 20, "test": 15}),
}


def _history(**changes: dict[str, float]) -> pd.DataFrame:
    assert set(changes) <= set(_GROUPS)
    groups = [
        _group(alpha, output, **(numbers | changes.get(name, {})))  # type: ignore[arg-type]
        for name, (alpha, output, numbers) in _GROUPS.items()
    ]
    return pd.concat(groups, ignore_index=True)


def _evaluate(history: pd.DataFrame, case: GrokkingNetworkCase | None = None) -> dict[str, Claim]:
    found = {claim.id: claim for claim in claims(case or _case(), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return found


def _failing(found: dict[str, Claim]) -> set[str]:
    return {name for name, claim in found.items() if not claim.holds}


def test_all_claims_hold_on_runs_that_grok() -> None:
    found = _evaluate(_history())
    assert set(found) == _ALL
    assert _failing(found) == set()
    delays: Any = found["delayed-generalisation"].observed
    assert delays["alpha-4"]["memorisation_step"]["value"] == pytest.approx(200, rel=0.1)
    assert delays["alpha-4"]["delay_factor"]["value"] == pytest.approx(4, rel=0.2)
    later: Any = found["larger-scale-learns-later"].observed
    ratio = later["log_ratio_of_steps"]["4-6"]["memorisation"]["value"]
    assert ratio == pytest.approx(np.log(2), abs=0.1)
    fewer: Any = found["standard-initialisation-needs-fewer"].observed
    factor = fewer["enlarged_against_standard"]["alpha-6"]["train"]["ratio_of_means"]
    assert factor == pytest.approx(150 / 40, rel=0.1)
    sigmoid: Any = found["sigmoid-needs-fewer"].observed
    assert sigmoid["sigmoid_minus_linear"]["train"]["value"] == pytest.approx(-20, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({"small": {"delay": 2}}, {"delayed-generalisation"}),
        (
            {"large": {"floor": 0.3}},
            {
                "delayed-generalisation",
                "test-error-keeps-falling",
                "gap-widens-while-test-error-falls",
                "larger-scale-learns-later",
                "standard-initialisation-needs-fewer",
            },
        ),
        (
            {"large": {"train": 80}},
            {
                "effective-parameters-diverge",
                "gap-widens-while-test-error-falls",
                "larger-scale-diverges-later",
            },
        ),
        ({"small": {"diverged": 0.01}}, {"gap-widens-while-test-error-falls"}),
        ({"small": {"diverged": 2.0}}, {"larger-scale-diverges-later"}),
        ({"large": {"memorised": 200, "diverged": 1.0}}, {"larger-scale-learns-later"}),
        ({"standard": {"memorised": 400}}, {"standard-initialisation-learns-early"}),
        ({"standard": {"train": 90, "test": 60}}, {"standard-initialisation-needs-fewer"}),
        ({"sigmoid": {"train": 41}}, {"sigmoid-needs-fewer"}),
        ({"sigmoid": {"test": 31}}, {"sigmoid-needs-fewer"}),
        ({"sigmoid": {"smoother_error": 0.2}}, {"smoother-explains-predictions"}),
    ],
)
def test_a_claim_fails_when_its_finding_is_missing(
    changes: dict[str, dict[str, float]], fails: set[str]
) -> None:
    assert _failing(_evaluate(_history(**changes))) == fails


def test_one_seed_that_never_generalises_is_enough_to_fail() -> None:
    history = _history()
    stuck = (history["seed"] == 1) & (history["alpha"] == 4.0)
    history.loc[stuck, "test/accuracy"] = 0.6
    found = _evaluate(history)
    observed: Any = found["delayed-generalisation"].observed
    assert not found["delayed-generalisation"].holds
    assert observed["alpha-4"]["generalisation_step"] is None
    assert observed["alpha-4"]["delay_factor"] is None
    # How late it must at least be is known all the same.
    assert observed["alpha-4"]["delay_lower_bound"]["largest"] > 10


def test_a_run_that_never_memorises_fails_without_numbers() -> None:
    history = _history()
    history.loc[history["alpha"] == 6.0, "train/accuracy"] = 0.7
    found = _evaluate(history)
    assert not found["delayed-generalisation"].holds
    assert not found["test-error-keeps-falling"].holds
    assert not found["larger-scale-learns-later"].holds
    assert "memorisation" not in summarize(_case(), history)["alpha-6.0_linear"]["steps"]


def test_a_perfect_network_gives_a_finite_fall() -> None:
    history = _history()
    history.loc[history["step"] == _STEPS[-1], "test/accuracy"] = 1.0
    assert _evaluate(history)["test-error-keeps-falling"].holds


def test_a_difference_within_the_error_bars_does_not_count() -> None:
    history = _history()
    sigmoid = history["output"] == "sigmoid"
    for name in ("train", "test"):
        history.loc[sigmoid, f"{name}/effective_parameters_stderr"] = 30.0
    assert _failing(_evaluate(history)) == {"sigmoid-needs-fewer"}


def test_exact_effective_parameters_need_no_errors() -> None:
    history = _history()
    exact = history.drop(columns=[name for name in history if name.endswith("_stderr")])
    assert _failing(_evaluate(exact)) == set()


def test_claims_follow_the_settings_there_are() -> None:
    history = _history()
    enlarged = history[history["alpha"] > 1]
    found = _evaluate(enlarged, _case(outputs=()))
    assert not any(name.startswith(("standard", "sigmoid")) for name in found)
    one = _case().narrowed({"alpha": 4.0, "output": "linear"}, 1)
    assert not any(name.startswith("larger") for name in _evaluate(history, one))


@pytest.mark.parametrize(
    ("limit", "claim"),
    [
        ({"minimum_delay": 5.0}, "delayed-generalisation"),
        ({"minimum_fall": 20.0}, "test-error-keeps-falling"),
        ({"early_steps": 50}, "standard-initialisation-learns-early"),
        ({"complexity_factor": 9.0}, "standard-initialisation-needs-fewer"),
        ({"smoother_error": 0.01}, "smoother-explains-predictions"),
        ({"divergence_gap": 100.0}, "effective-parameters-diverge"),
    ],
)
def test_thresholds_come_from_the_parameters(limit: dict[str, float], claim: str) -> None:
    found = _evaluate(_history(), _case(**limit))[claim]
    assert not found.holds
    (name, value), threshold = *limit.items(), found.threshold
    assert value in threshold.values(), f"{name} is not reported"


def test_the_order_of_members_does_not_matter() -> None:
    history = _history()
    shuffled = pd.concat(
        [part for _, part in reversed(list(history.groupby("member", sort=False)))],
        ignore_index=True,
    )
    one, other = _evaluate(history), _evaluate(shuffled)
    assert {name: claim.observed for name, claim in one.items()} == {
        name: claim.observed for name, claim in other.items()
    }


def test_summary_holds_final_means_and_steps() -> None:
    summary = summarize(_case(), _history())
    json.dumps(summary, allow_nan=False)
    assert list(summary) == [
        "alpha-4.0_linear",
        "alpha-6.0_linear",
        "alpha-1.0_linear",
        "alpha-1.0_sigmoid",
    ]
    large = summary["alpha-6.0_linear"]
    assert large["test_effective_parameters"] == pytest.approx(80)
    assert large["steps"]["generalisation"] > large["steps"]["memorisation"]
    steps = events_of(_case(), _history().query("group == 'alpha-6.0_linear'"))
    mean = np.mean([event.memorisation.step for event in steps.values()])
    assert large["steps"]["memorisation"] == mean
