"""Claims about the convolutional network hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from telescope_pipeline.cases.convolutional_network.claims import claims
from telescope_pipeline.cases.convolutional_network.metrics import layer_shares, summarize

_NOISE = "label-noise-takes-degrees-of-freedom"
_LAYERS = ("convolutions.0", "convolutions.1", "head")


def _history(
    *,
    p_train: tuple[float, float] = (120.0, 260.0),
    p_test: tuple[float, float] = (100.0, 180.0),
    shares: tuple[float, float, float] = (0.2, 0.5, 0.3),
    telescoped: float = 0.02,
    probe_error: float = 2.0,
    seed_effect: float = 10.0,
) -> pd.DataFrame:
    """Two records each of two seeds, without noise and with; early ones may not count."""
    rows = []
    for level, train, test in zip((0.0, 0.25), p_train, p_test, strict=True):
        for seed in (0, 1):
            for step in (5, 100):
                late = step == 100
                # What a seed has in common at both levels of noise cancels in pairs.
                parameters = {
                    "train": train + seed_effect * seed if late else 1.0,
                    "test": test if late else 7.0,
                }
                row: dict[str, Any] = {
                    "member": f"label-noise-{level!r}_seed-{seed}",
                    "group": f"label-noise-{level!r}",
                    "seed": seed,
                    "label_noise": level,
                    "step": step,
                    "test/linearization_error": 1.0,
                    "test/approximation_error": telescoped if late else 2.0,
                }
                for name, p in parameters.items():
                    row |= {
                        f"{name}/loss": 0.1,
                        f"{name}/accuracy": 0.9,
                        f"{name}/kernel_norm_mean": 3.0,
                        f"{name}/logit_sensitivity": 1e3 * p,
                        f"{name}/logit_sensitivity_stderr": 1e3 * probe_error,
                    }
                row["train/clean_accuracy"] = 0.9
                row["train/degrees_of_freedom"] = freedom = parameters["train"] / 10
                row["train/degrees_of_freedom_stderr"] = probe_error / 10
                for layer, share in zip(_LAYERS, shares, strict=True):
                    row[f"train/degrees_of_freedom@{layer}"] = share * freedom
                rows.append(row)
    return pd.DataFrame(rows)


def _evaluate(build: Callable[..., Any], history: pd.DataFrame) -> dict[str, Any]:
    found = {claim.id: claim for claim in claims(build("convolutional_network"), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return found


def test_all_claims_hold_where_the_finding_is(build: Callable[..., Any]) -> None:
    found = _evaluate(build, _history())
    assert len(found) == 5
    assert [name for name, claim in found.items() if not claim.holds] == []
    share = found["convolutions-hold-most"].observed["share"]["label-noise-0.25"]
    assert share["convolutions"]["value"] == pytest.approx(0.7)
    assert share["head"]["value"] == pytest.approx(0.3)
    # Paired by seed the difference is 14 in both; what is left is the probes' error.
    difference = found["label-noise-takes-degrees-of-freedom"].observed["difference"]
    assert difference == pytest.approx({"value": 14.0, "stderr": 0.2})


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"telescoped": 0.11}, {"closer-than-lazy"}),
        ({"p_test": (120.0, 180.0)}, {"train-logits-are-more-sensitive"}),
        ({"p_train": (120.0, 115.0), "p_test": (100.0, 90.0)}, {_NOISE}),
        ({"p_train": (120.0, 420.0)}, {"degrees-of-freedom-are-a-count"}),
        ({"shares": (0.2, 0.29, 0.51)}, {"convolutions-hold-most"}),
        ({"probe_error": 25.0}, {"train-logits-are-more-sensitive"}),
        ({"probe_error": 90.0}, {"train-logits-are-more-sensitive", _NOISE}),
        ({"seed_effect": 60.0}, {"train-logits-are-more-sensitive"}),
    ],
)
def test_a_claim_fails_when_its_finding_is_missing(
    build: Callable[..., Any], change: dict[str, Any], fails: set[str]
) -> None:
    found = _evaluate(build, _history(**change))
    assert {name for name, claim in found.items() if not claim.holds} == fails


def test_one_run_that_is_not_ten_times_closer_is_enough_to_fail(build: Callable[..., Any]) -> None:
    history = _history()
    history.loc[history["member"] == "label-noise-0.25_seed-1", "test/approximation_error"] = 0.2
    assert not _evaluate(build, history)["closer-than-lazy"].holds


def test_the_claim_about_noise_needs_two_levels(build: Callable[..., Any]) -> None:
    case = build("convolutional_network")
    alone = case.model_copy(update={"data": case.data.model_copy(update={"label_noise": [0.0]})})
    history = _history()
    found = claims(alone, history[history["label_noise"] == 0.0])
    assert _NOISE not in {claim.id for claim in found}


def test_shares_of_real_runs_add_up(trained: Callable[[str], tuple[Any, pd.DataFrame]]) -> None:
    _, history = trained("convolutional_network")
    shares = layer_shares(history[history["step"] > 0])
    assert list(shares) == list(_LAYERS)
    assert sum(shares.values()).to_numpy() == pytest.approx(1.0, rel=1e-5)


def test_summary_reads_by_level_of_noise(build: Callable[..., Any]) -> None:
    summary = summarize(build("convolutional_network"), _history())
    json.dumps(summary, allow_nan=False)
    assert list(summary) == ["label-noise-0.0", "label-noise-0.25"]
    found = summary["label-noise-0.25"]
    assert found["train_degrees_of_freedom"] == pytest.approx(26.5)
    assert found["share"]["convolutions_1"] == pytest.approx({"value": 0.5, "stderr": 0.0})
