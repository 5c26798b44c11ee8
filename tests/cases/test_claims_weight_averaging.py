"""Claims of the weight-averaging case hold on tables that show the finding, and only there."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import pytest

from telescope_pipeline.cases.weight_averaging import sweep as names
from telescope_pipeline.cases.weight_averaging.claims import claims
from telescope_pipeline.cases.weight_averaging.figures import draw
from telescope_pipeline.cases.weight_averaging.metrics import layers_of, log_change, summarize
from telescope_pipeline.cases.weight_averaging.schema import WeightAveragingCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.store.plain import plain
from telescope_pipeline.store.table_checks import check_case_history

_STEPS = (0, 4, 16, 64, 256)
_LAYERS = ("stem", "stem_norm", "stages.0.0.conv1", "stages.0.0.norm1", "head")


def _case(**limits: Any) -> WeightAveragingCase:
    phase = {"steps": 400, "learning_rate": 0.1}
    return WeightAveragingCase.model_validate(
        {
            "kind": "weight_averaging",
            "seeds": 3,
            "data": {"source": "cifar10"},
            "model": {"widths": [4], "blocks": 1},
            "training": {
                "starts": ["scratch", "pretrained"],
                "batch_size": 8,
                "scratch": phase,
                "pretraining": phase,
                "finetuning": phase,
            },
            "lens": {"spawn_steps": list(_STEPS), "alphas": 4, "gradient_gap": 9},
            "claims": limits,
            "plot": {},
        }
    )


def _history(
    *,
    scratch_gap: tuple[float, ...] = (0.6, 0.4, 0.2, 0.05, 0.01),
    pretrained_gap: tuple[float, ...] = (0.1, 0.06, 0.02, 0.01, 0.0),
    conv_fall: float = 1.0,
    norm_fall: float = 1.0,
    head_fall: float = 3.0,
    pretrained_norm: float = 2.0,
    spread: float = 0.01,
    starts: tuple[str, ...] = ("scratch", "pretrained"),
) -> pd.DataFrame:
    """Three seeds of each start; the statistics that are not judged show nothing."""
    draws = np.random.default_rng(0)
    falls = {"convolution": conv_fall, "norm": norm_fall, "head": head_fall}
    rows = []
    for start in starts:
        gaps = scratch_gap if start == "scratch" else pretrained_gap
        for seed in range(3):
            for place, step in enumerate(_STEPS):
                gap = gaps[place] + spread * draws.uniform(-1, 1)
                row: dict[str, Any] = {
                    "member": f"{start}_seed-{seed}",
                    "group": start,
                    "seed": seed,
                    "setting": start,
                    "step": step,
                }
                for statistics, lost in {"recomputed": gap, "interpolated": 0.3}.items():
                    row[names.children_column(statistics)] = 0.9
                    row[names.gap_column(statistics)] = lost
                    for alpha in names.alphas(4):
                        shape = 1 - abs(2 * alpha - 1)
                        row[names.path_column(statistics, alpha)] = 0.9 - lost * shape
                for layer in _LAYERS:
                    kind = names.kind_of(layer)
                    exponent = -falls[kind] * place / (len(_STEPS) - 1)
                    exponent += spread * draws.uniform(-1, 1)
                    if start == "pretrained" and kind == "norm":
                        exponent += np.log10(pretrained_norm)
                    row[names.change_column(layer)] = 10**exponent
                rows.append(row)
    return pd.DataFrame(rows)


def _failing(history: pd.DataFrame, **limits: Any) -> set[str]:
    found = {claim.id: claim for claim in claims(_case(**limits), history)}
    for claim in found.values():
        assert isinstance(claim.holds, bool)
        json.dumps(plain([claim.observed, claim.threshold], claim.id), allow_nan=False)
    return {name for name, claim in found.items() if not claim.holds}


def test_all_claims_hold_on_the_paper_s_finding() -> None:
    history = _history()
    check_case_history(history, _case(), ["setting"], "made up")
    assert len(claims(_case(), history)) == 5
    assert _failing(history) == set()


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({"scratch_gap": (0.05, 0.1, 0.2, 0.4, 0.6)}, {"gap-falls"}),
        ({"scratch_gap": (0.3, 0.3, 0.3, 0.3, 0.3), "spread": 0.0}, {"gap-falls"}),
        # Between first and last it falls, but in the course of training it does not.
        ({"scratch_gap": (0.4, 0.1, 0.2, 0.5, 0.38)}, {"gap-falls"}),
        ({"pretrained_gap": (0.7, 0.5, 0.3, 0.1, 0.1)}, {"pretraining-lowers-gap"}),
        ({"pretrained_gap": (0.6, 0.4, 0.2, 0.05, 0.01)}, {"pretraining-lowers-gap"}),
        (
            {"conv_fall": -1.0, "norm_fall": -1.0, "head_fall": 0.5},
            {"gradient-change-falls"},
        ),
        ({"conv_fall": 4.0}, {"last-layer-falls-most"}),
        ({"norm_fall": 4.0}, {"last-layer-falls-most"}),
        ({"pretrained_norm": 0.5}, {"pretraining-raises-batchnorm-change"}),
        ({"pretrained_norm": 1.0}, {"pretraining-raises-batchnorm-change"}),
    ],
)
def test_a_claim_fails_where_its_finding_is_missing(
    change: dict[str, Any], failing: set[str]
) -> None:
    assert _failing(_history(**change)) == failing


def test_differences_within_error_bars_are_none() -> None:
    history = _history(spread=0.0)
    column = names.gap_column("recomputed")
    # At t' = 0 one seed loses everything and the others hardly anything: the mean falls as before.
    for seed, gap in enumerate((0.9, 0.02, 0.02)):
        first = (history["seed"] == seed) & (history["step"] == 0)
        history.loc[first & (history["setting"] == "scratch"), column] = gap
    for place, gap in enumerate((0.2, 0.1, 0.05, 0.02), start=1):
        later = (history["setting"] == "scratch") & (history["step"] == _STEPS[place])
        history.loc[later, column] = gap
    assert _failing(history) == {"gap-falls", "pretraining-lowers-gap"}
    assert _failing(history, standard_errors=0.5) == set()


def test_gaps_are_judged_with_the_chosen_statistics() -> None:
    assert _failing(_history(), statistics="interpolated") == {
        "gap-falls",
        "pretraining-lowers-gap",
    }


def test_a_sweep_of_one_start_claims_what_it_can_show() -> None:
    from_scratch = claims(_case(), _history(starts=("scratch",)))
    assert {claim.id for claim in from_scratch} == {
        "gap-falls",
        "gradient-change-falls",
        "last-layer-falls-most",
    }
    assert claims(_case(), _history(starts=("pretrained",))) == []


def test_steps_that_only_one_start_has_are_not_compared() -> None:
    history = _history()
    shorter = history[~((history["setting"] == "pretrained") & (history["step"] == 256))]
    (claim,) = (c for c in claims(_case(), shorter) if c.id == "pretraining-lowers-gap")
    assert list(claim.observed["by_step"]) == ["0", "4", "16", "64"]
    expected = np.subtract((0.6, 0.4, 0.2, 0.05), (0.1, 0.06, 0.02, 0.01)).mean()
    assert claim.observed["scratch_minus_pretrained"]["value"] == pytest.approx(expected, abs=0.01)


def test_seeds_that_only_one_start_has_are_not_compared() -> None:
    history = _history(spread=0.0)
    fewer = history[~((history["setting"] == "pretrained") & (history["seed"] == 2))]
    (claim,) = (c for c in claims(_case(), fewer) if c.id == "pretraining-lowers-gap")
    assert list(claim.observed["by_step"]) == [str(step) for step in _STEPS]
    assert claim.holds


def test_layers_are_told_by_kind() -> None:
    assert layers_of(_history()) == list(_LAYERS)
    kinds = [names.kind_of(layer) for layer in _LAYERS]
    assert kinds == ["convolution", "norm", "convolution", "norm", "head"]
    history = _history(spread=0.0)
    assert log_change(history, "head").iloc[4] == pytest.approx(-3.0)
    assert log_change(history).iloc[4] == pytest.approx((-1 * 4 - 3) / 5)


def test_summary_is_plain_numbers_of_the_history() -> None:
    history = _history()
    summary = plain(summarize(_case(), history), "summary")
    at = history[(history["setting"] == "scratch") & (history["step"] == 4)]
    values = summary["scratch"]["000004"]
    gaps = at[names.gap_column("recomputed")]
    assert values["accuracy_gap_recomputed"] == pytest.approx(gaps.mean())
    assert values["accuracy_gap_recomputed_stderr"] == pytest.approx(gaps.std() / 3**0.5)
    assert values["children_accuracy"] == pytest.approx(0.9)


def test_positions_are_even_and_hold_the_middle() -> None:
    assert names.alphas(3) == [0.0, 0.5, 1.0]
    assert names.alphas(2) == [0.0, 0.5, 1.0]
    assert names.alphas(4) == pytest.approx([0, 1 / 3, 0.5, 2 / 3, 1])
    assert len(names.alphas(30)) == 31


def _titles(figure: Figure) -> list[str]:
    panels = [panel for panel in figure.chart["concat"] if "title" in panel]
    return [" ".join(panel["title"]["text"]) for panel in panels]


def _shown(figure: Figure, panel: int) -> pd.DataFrame:
    """The first point of every line of a panel, with its standard error and every seed."""
    name = figure.chart["concat"][panel]["data"]["name"]
    points = pd.read_csv(StringIO(figure.chart["datasets"][name]))
    return points.groupby("line", sort=False).first()


def test_figures_show_the_tables_and_are_described_the_same_every_time() -> None:
    history = _history()
    drawn, again = draw(_case(), history), draw(_case(), history)
    assert [figure.name for figure in drawn] == ["accuracy-gap", "gradient-change", "interpolation"]
    for figure, twin in zip(drawn, again, strict=True):
        assert list(figure.table.columns[:2]) == ["step", "setting"]
        assert not figure.table.duplicated(["step", "setting"]).any()
        assert np.isfinite(figure.table.select_dtypes("number").to_numpy()).all()
        assert figure.chart == twin.chart


def test_gap_figure_has_the_judged_statistics_on_the_left_with_error_bands() -> None:
    history = _history()
    for statistics, expected in (("recomputed", 0.6), ("interpolated", 0.3)):
        figure = draw(_case(statistics=statistics), history)[0]
        left, right = _titles(figure)
        assert statistics in left
        assert statistics not in right
        shown = _shown(figure, 0)
        assert shown["y"].iloc[0] == pytest.approx(100 * expected, abs=2)
        assert len(shown) == 2
        assert shown["e"].any() == (statistics == "recomputed")
        seeds = shown.filter(like="seed")
        assert shown["e"].to_numpy() == pytest.approx(seeds.std(axis=1) / 3**0.5, rel=5e-3)


def test_gradient_change_is_drawn_by_kind_as_the_claims_average_it() -> None:
    history = _history()
    figure = draw(_case(), history)[1]
    assert _titles(figure) == list(names.KINDS.values())
    scratch = history[(history["setting"] == "scratch") & (history["step"] == 0)]
    table = figure.table[(figure.table["setting"] == "scratch") & (figure.table["step"] == 0)]
    for panel, kind in enumerate(names.KINDS):
        layers = [name for name in layers_of(history) if names.kind_of(name) == kind]
        values = scratch[[names.change_column(layer) for layer in layers]].to_numpy()
        (mean,) = table[f"gradient_change_of_{kind}"]
        assert mean == pytest.approx(np.exp(np.log(values).mean()), rel=1e-9)
        assert np.isclose(_shown(figure, panel)["y"], mean, rtol=1e-6).any()


def test_one_start_and_one_seed_can_be_drawn() -> None:
    history = _history(starts=("scratch",))
    for figure in draw(_case(), history[history["seed"] == 0]):
        assert all(map(len, figure.chart["datasets"].values()))
        assert set(figure.table["setting"]) == {"scratch"}
