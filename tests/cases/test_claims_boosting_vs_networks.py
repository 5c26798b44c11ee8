"""Claims of boosting against networks hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from telescope_pipeline.cases.boosting_vs_networks.claims import claims
from telescope_pipeline.cases.boosting_vs_networks.figures import draw
from telescope_pipeline.cases.boosting_vs_networks.metrics import compare, summarize
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase
from telescope_pipeline.cases.boosting_vs_networks.sweep import set_name

_PROPORTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
_ALL = {
    "trees-beat-network-on-regular",
    "gap-grows",
    "network-kernel-norm-ratio-grows",
    "trees-kernel-norm-ratio-near-one",
}


def _case(*tables: str) -> BoostingVsNetworksCase:
    return BoostingVsNetworksCase.model_validate(
        {
            "kind": "boosting_vs_networks",
            "seeds": 3,
            "data": {
                "tables": list(tables) or ["houses"],
                "train_size": 100,
                "validation_size": 50,
                "test_size": 50,
            },
            "model": {"hidden": [4]},
            "training": {
                "draws": 1,
                "network": {"epochs": 1, "batch_size": 32, "optimizer": {"name": "sgd"}},
                "trees": {},
            },
            "lens": {"stride": 2},
            "claims": {},
            "plot": {},
        }
    )


def _history(
    table: str = "houses",
    *,
    network_error: tuple[float, ...] = (0.3, 0.38, 0.47, 0.55, 0.63),
    trees_error: tuple[float, ...] = (0.2, 0.25, 0.3, 0.35, 0.4),
    network_ratio: tuple[float, ...] = (1.0, 1.8, 2.0, 2.2, 2.5),
    trees_ratio: tuple[float, ...] = (0.95, 0.97, 0.98, 0.98, 0.98),
    spread: float = 0.002,
) -> pd.DataFrame:
    """Two records each of three seeds of both models, made up."""
    draws = np.random.default_rng(0)
    rows = []
    for model, errors, ratios in (
        ("network", network_error, network_ratio),
        ("trees", trees_error, trees_ratio),
    ):
        for seed in (0, 1, 2):
            last = 400 if model == "network" else 90 + 10 * seed
            for step in (1, last):
                # Early records say the opposite: only the last ones may count.
                late = step == last
                row: dict[str, Any] = {
                    "member": f"{table}_{model}_seed-{seed}",
                    "group": f"{table}_{model}",
                    "seed": seed,
                    "table": table,
                    "model": model,
                    "step": step,
                    "train/mse": 0.1,
                    "validation/mse": 0.2,
                    "train/kernel_norm_max": 3.0 if model == "network" else 0.2,
                    "search/learning_rate": 0.01,
                }
                for place, proportion in enumerate(_PROPORTIONS):
                    name = set_name(proportion)
                    noise = spread * draws.uniform(-1, 1)
                    error, ratio = errors[place], ratios[place]
                    row[f"{name}/mse"] = error + noise if late else 1.0 - error
                    norm = ratio if late else 3.0 - ratio
                    row[f"{name}/kernel_norm_max"] = norm * row["train/kernel_norm_max"] + noise
                for place, name in enumerate(("train", "regular", "irregular")):
                    row[f"{name}/effective_parameters"] = (10.0 + place) * (20 if late else 1)
                    row[f"{name}/effective_parameters_stderr"] = 1.0 if model == "network" else 0.0
                rows.append(row)
    return pd.DataFrame(rows)


def _failing(history: pd.DataFrame, *tables: str) -> set[str]:
    found = claims(_case(*tables), history)
    assert {claim.id for claim in found} == _ALL
    for claim in found:
        assert isinstance(claim.holds, bool)
        json.dumps([claim.observed, claim.threshold], allow_nan=False)
    return {claim.id for claim in found if not claim.holds}


def test_all_claims_hold_where_the_finding_shows() -> None:
    assert _failing(_history()) == set()


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        # The network wins on regular rows.
        (
            {"trees_error": (0.35, 0.38, 0.42, 0.45, 0.48)},
            {"trees-beat-network-on-regular"},
        ),
        # Both do worse, the gap stays.
        ({"trees_error": (0.2, 0.28, 0.37, 0.45, 0.53)}, {"gap-grows"}),
        # The gap grows, but dips on the way.
        ({"trees_error": (0.2, 0.25, 0.45, 0.35, 0.4)}, {"gap-grows"}),
        ({"network_ratio": (2.5, 2.2, 2.0, 1.8, 1.0)}, {"network-kernel-norm-ratio-grows"}),
        ({"network_ratio": (1.0, 1.8, 1.2, 2.2, 2.5)}, {"network-kernel-norm-ratio-grows"}),
        ({"trees_ratio": (0.95, 1.1, 1.2, 1.3, 1.4)}, {"trees-kernel-norm-ratio-near-one"}),
        ({"trees_ratio": (0.95, 0.9, 0.8, 0.7, 0.6)}, {"trees-kernel-norm-ratio-near-one"}),
        # What is seen is within the spread of seeds.
        ({"spread": 0.6}, {"trees-beat-network-on-regular", "gap-grows"}),
    ],
)
def test_each_claim_fails_by_itself(change: dict[str, Any], failing: set[str]) -> None:
    assert failing <= _failing(_history(**change))
    if "spread" not in change:
        assert _failing(_history(**change)) == failing


@pytest.mark.parametrize(
    ("left_out", "ids"),
    [
        ("network", {"trees-kernel-norm-ratio-near-one"}),
        ("trees", {"network-kernel-norm-ratio-grows"}),
    ],
)
def test_without_one_of_the_models_nothing_is_said_about_it(left_out: str, ids: set[str]) -> None:
    case = _case()
    one = case.model_copy(update={"training": case.training.model_copy(update={left_out: None})})
    history = _history()
    history = history[history["model"] != left_out]
    assert {claim.id for claim in claims(one, history)} == ids
    summary = summarize(one, history)["table"]["houses"]
    assert list(summary["search"]) == [name for name in ("network", "trees") if name != left_out]
    assert not any("gap" in name for name in summary["test"]["test_p000"])
    figures = draw(one, history)
    assert [figure.name for figure in figures] == ["errors", "effective-parameters"]
    for figure in figures:
        assert not any(left_out in str(name) for name in figure.table.columns)


def test_a_claim_must_hold_on_every_table() -> None:
    flat = _history("california", network_error=(0.3,) * 5, trees_error=(0.2,) * 5)
    both = pd.concat([_history(), flat], ignore_index=True)
    assert _failing(both, "houses", "california") == {"gap-grows"}
    # The order of members does not matter: seeds are paired by number.
    shuffled = both.sample(frac=1, random_state=1)
    assert _failing(shuffled, "california", "houses") == {"gap-grows"}


def test_gaps_are_paired_by_seed() -> None:
    """What both models of a seed share, such as a hard test set, is no uncertainty of the gap."""
    history = _history()
    for proportion in _PROPORTIONS:
        history[f"{set_name(proportion)}/mse"] += 0.2 * history["seed"]
    assert _failing(history) == set()


def test_the_relative_gap_is_one_without_irregular_rows_or_undefined() -> None:
    found = compare(_case(), _history())["houses"]
    relative = found.relative_gaps(0.0)
    assert relative is not None
    assert relative.mean() == pytest.approx(1)
    last = found.relative_gaps(1.0)
    assert last is not None
    assert last.mean() == pytest.approx(2.3, abs=0.1)
    tied = compare(_case(), _history(trees_error=(0.3,) * 5))["houses"]
    assert tied.relative_gaps(1.0) is None


def test_summary_is_plain_and_complete() -> None:
    for history in (_history(), _history(trees_error=(0.3,) * 5)):
        summary = json.loads(json.dumps(summarize(_case(), history), allow_nan=False))
        found = summary["table"]["houses"]
        assert list(found["test"]) == [set_name(proportion) for proportion in _PROPORTIONS]
        at_end = found["test"]["test_p100"]
        assert at_end["network_mse"] == pytest.approx(0.63, abs=0.01)
        assert at_end["trees_kernel_norm_ratio"] == pytest.approx(0.98, abs=0.02)
        assert found["effective_parameters"]["trees"]["irregular"] == 240
        assert found["search"]["trees"]["steps"] == [90, 100, 110]


def _two_tables() -> tuple[BoostingVsNetworksCase, pd.DataFrame]:
    tied = _history("california", trees_error=(0.3,) * 5)
    return _case("houses", "california"), pd.concat([_history(), tied], ignore_index=True)


def test_figures_have_tidy_tables_and_words() -> None:
    figures = draw(*_two_tables())
    assert len({figure.name for figure in figures}) == len(figures) == 3
    for figure, again in zip(figures, draw(*_two_tables()), strict=True):
        assert figure.title
        assert figure.caption
        keys = [figure.table.columns[0], "table"]
        keys += [name for name in ("model",) if name in figure.table]
        assert not figure.table.duplicated(keys).any()
        assert all(panel["encoding"]["y"]["title"] for panel in figure.chart["concat"])
        assert figure.chart == again.chart


def test_an_undefined_relative_gap_is_said_and_the_gap_drawn_instead() -> None:
    figure = draw(*_two_tables())[0]
    labels = [panel["encoding"]["y"]["title"] for panel in figure.chart["concat"]]
    assert labels[0] == "relative error gap"
    assert labels[2] == "error gap, network − trees"
    assert "On california the gap" in figure.caption
    table = figure.table.set_index(["table", "proportion"])
    assert table.loc[("houses", 0.0), "relative_gap"] == pytest.approx(1)
    assert table.loc["california"]["relative_gap"].isna().all()
    assert table.loc[("california", 1.0), "gap"] == pytest.approx(0.33, abs=0.01)


def test_trajectories_end_at_the_means_of_the_last_records() -> None:
    table = draw(*_two_tables())[2].table
    ends = table[table["progress"] == 1.0]
    assert len(ends) == 4
    assert ends["irregular_effective_parameters"].tolist() == pytest.approx([240] * 4)
    assert ends["train_effective_parameters_stderr"].tolist() == pytest.approx(
        [3**-0.5, 0, 3**-0.5, 0]
    )


@pytest.mark.parametrize("part", ["metrics", "figures"])
def test_metrics_and_figures_work_without_torch(part: str) -> None:
    code = (
        f"import sys; import telescope_pipeline.cases.boosting_vs_networks.{part}; "
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
