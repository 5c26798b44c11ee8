"""Both models of a comparison: searched, resumable, and measured as defined."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from telescope_core.boosting import BoostingLens
from telescope_core.errors import NonFiniteError
from telescope_pipeline.cases.boosting_vs_networks.schema import (
    BoostingVsNetworksCase,
    NetworkSearch,
    TreesSearch,
)
from telescope_pipeline.cases.boosting_vs_networks.sweep import members
from telescope_pipeline.cases.boosting_vs_networks.training import train as training
from telescope_pipeline.cases.boosting_vs_networks.training import trees as _trees
from telescope_pipeline.cases.boosting_vs_networks.training.mixtures import Mixtures
from telescope_pipeline.cases.boosting_vs_networks.training.search import (
    SearchCheckpoint,
    best_draw,
    network_settings,
    trees_settings,
)
from telescope_pipeline.contract import Member, TrainingJob
from telescope_pipeline.store.table_checks import check_member_history
from telescope_pipeline.study.networks.mlp import MLP

_TRAIN, _TEST = 60, 12


def _settings() -> dict[str, Any]:
    return {
        "kind": "boosting_vs_networks",
        "seeds": 2,
        "data": {
            "tables": ["california", "houses"],
            "train_size": _TRAIN,
            "validation_size": 20,
            "test_size": _TEST,
        },
        "model": {"hidden": [6, 5]},
        "training": {
            "draws": 3,
            "network": {
                "epochs": 4,
                "batch_size": 16,
                "optimizer": {"name": "sgd", "momentum": 0.9},
                "learning_rates": [0.001, 0.1],
            },
            "trees": {"median_learning_rate": 0.1, "estimators": [5.0, 20.0]},
        },
        "lens": {
            "stride": 3,
            "norm_stride": 2,
            "probes": 8,
            "deflate": 2,
            "records": 5,
            "checkpoint_every": 6,
        },
        "claims": {},
        "plot": {},
    }


def _case(**changes: Any) -> BoostingVsNetworksCase:
    """A small case; ``training__draws=2`` replaces one leaf."""
    settings = _settings()
    for path, value in changes.items():
        *above, leaf = path.split("__")
        section = settings
        for name in above:
            section = section[name]
        section[leaf] = value
    return BoostingVsNetworksCase.model_validate(settings)


@pytest.fixture(scope="module")
def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    rows = {"train": _TRAIN, "validation": 20, "regular": _TEST, "irregular": _TEST}
    for part, count in rows.items():
        scale = 4.0 if part == "irregular" else 1.0
        inputs = scale * torch.randn(count, 4, generator=generator)
        found[f"{part}_inputs"] = inputs
        found[f"{part}_targets"] = inputs[:, 0].sin() + (inputs[:, 1] > 0)
    return found


def _member(model: str, seed: int = 0) -> Member:
    name = f"california_{model}"
    return Member(
        name=f"{name}_seed-{seed}",
        group=name,
        seed=seed,
        values={"table": "california", "model": model},
        data=f"california_seed-{seed}",
    )


def _train(
    case: BoostingVsNetworksCase,
    model: str,
    data: dict[str, Tensor],
    checkpoint: Any,
    seed: int = 0,
) -> Any:
    return training.train(
        TrainingJob(
            case,
            _member(model, seed),
            data,
            seed=0,
            device=torch.device("cpu"),
            checkpoint=checkpoint,
            progress=lambda done, total: None,
        )
    )


@pytest.fixture(scope="module")
def whole(data: dict[str, Tensor]) -> Callable[[str], Any]:
    """Each model of the small case, trained once without interruption."""
    cache: dict[str, Any] = {}

    def trained(model: str) -> Any:
        if model not in cache:
            checkpoint = _Memory()
            result = _train(_case(), model, data, checkpoint)
            cache[model] = SimpleNamespace(
                history=result.history, final=result.final, checkpoint=checkpoint
            )
        return cache[model]

    return trained


class _Memory:
    """Keeps the last state that was saved."""

    stored: Any = None

    def load(self) -> Any:
        return self.stored

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.stored = tensors, state


def test_members_are_every_table_model_and_seed() -> None:
    case = _case()
    found = members(case)
    assert len({member.name for member in found}) == len(found) == 8
    assert _member("trees", 1) in found
    for member in found:
        narrowed = case.narrowed(member.values, member.seed)
        assert member in members(narrowed)
        assert narrowed.data.tables == [member.values["table"]]
        assert list(narrowed.training.searches) == [member.values["model"]]


def test_a_finished_model_outlives_a_change_of_the_other_ones_search() -> None:
    trees = _member("trees")
    longer = _case(training__network__epochs=5)
    assert longer.narrowed(trees.values, 0) == _case().narrowed(trees.values, 0)
    network = _member("network")
    assert longer.narrowed(network.values, 0) != _case().narrowed(network.values, 0)


@pytest.mark.parametrize("model", ["network", "trees"])
def test_a_history_passes_the_check_of_the_stage(model: str, whole: Callable[[str], Any]) -> None:
    trained = whole(model)
    check_member_history(trained.history, _case(), "history")
    assert trained.history["step"].iloc[0] == 1
    assert all(tensor.isfinite().all() for tensor in trained.final.values())


def test_both_models_have_the_same_columns(whole: Callable[[str], Any]) -> None:
    assert set(whole("network").history) == set(whole("trees").history)


# Within the search, right after it, and during the training that follows.
@pytest.mark.parametrize(
    ("model", "saves"), [("network", 1), ("network", 3), ("network", 4), ("trees", 1), ("trees", 3)]
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    model: str,
    saves: int,
    data: dict[str, Tensor],
    checkpoints: Any,
    whole: Callable[[str], Any],
) -> None:
    case = _case()
    expected = whole(model)
    checkpoint = checkpoints.StoredCheckpoint(stop_after=saves)
    with pytest.raises(checkpoints.Interrupted):
        _train(case, model, data, checkpoint)
    checkpoint.stop_after = None
    resumed = _train(case, model, data, checkpoint)
    pd.testing.assert_frame_equal(expected.history, resumed.history, check_exact=True)
    assert list(expected.final) == list(resumed.final)
    assert all(torch.equal(tensor, resumed.final[name]) for name, tensor in expected.final.items())


def test_finished_draws_are_not_repeated(
    data: dict[str, Tensor], checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = checkpoints.StoredCheckpoint(stop_after=2)
    with pytest.raises(checkpoints.Interrupted):
        _train(_case(), "trees", data, checkpoint)
    checkpoint.stop_after = None
    fits = []
    original = _trees.GradientBoostingRegressor

    def counted(**settings: Any) -> Any:
        fits.append(settings)
        return original(**settings)

    monkeypatch.setattr(_trees, "GradientBoostingRegressor", counted)
    _train(_case(), "trees", data, checkpoint)
    # The third draw and the final fit.
    assert len(fits) == 2


@pytest.mark.parametrize("model", ["network", "trees"])
def test_the_model_that_is_followed_won_the_search(model: str, whole: Callable[[str], Any]) -> None:
    errors = SearchCheckpoint(whole(model).checkpoint).errors
    history = whole(model).history
    assert len(errors) == 3
    assert len(set(errors)) == 3
    # Exactly: lenses change nothing about training.
    assert history["validation/mse"].iloc[-1] == min(errors)


def test_models_of_other_seeds_differ(
    data: dict[str, Tensor], checkpoints: Any, whole: Callable[[str], Any]
) -> None:
    for model in ("network", "trees"):
        other = _train(_case(), model, data, checkpoints.StoredCheckpoint(), seed=1).history
        assert other["train/mse"].iloc[-1] != whole(model).history["train/mse"].iloc[-1]


def test_network_kernel_norms_are_those_of_its_definition(
    data: dict[str, Tensor], checkpoints: Any
) -> None:
    """With one batch of all rows and rates too small to move it, against the dense Jacobian."""
    case = _case(
        training__draws=1,
        training__network={
            "epochs": 2,
            "batch_size": _TRAIN,
            "optimizer": {"name": "sgd"},
            "learning_rates": [1e-12, 2e-12],
        },
        lens__stride=2,
    )
    trained = _train(case, "network", data, checkpoints.StoredCheckpoint())
    model = MLP((4, 6, 5, 1))
    model.load_state_dict(trained.final)
    parameters = dict(model.named_parameters())

    def jacobian(inputs: Tensor) -> Tensor:
        def outputs(values: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(model, values, (inputs,)).squeeze(-1)

        slopes = torch.func.jacrev(outputs)(parameters)
        return torch.cat([slopes[name].flatten(1) for name in parameters], dim=1)

    batch = jacobian(data["train_inputs"])
    pools = {pool: data[f"{pool}_inputs"] for pool in ("regular", "irregular")}
    mixed = Mixtures(case.data.proportions, _TEST).mixed(pools)
    for name, inputs in {"train": data["train_inputs"], **mixed}.items():
        norms = (jacobian(inputs) @ batch.T).norm(dim=1) / _TRAIN
        measured = trained.history[f"{name}/kernel_norm_max"].iloc[-1]
        assert measured == pytest.approx(float(norms.detach().max()), rel=1e-4)


def _predict(final: dict[str, Tensor], inputs: Tensor) -> np.ndarray:
    """Boosted trees from their arrays, row by row."""
    arrays = {name: tensor.numpy() for name, tensor in final.items()}
    found = []
    for row in inputs.numpy():
        total = 0.0
        for first in arrays["offsets"][:-1]:
            node = first
            while arrays["left"][node] != -1:
                goes_left = row[arrays["feature"][node]] <= arrays["threshold"][node]
                node = first + arrays["left" if goes_left else "right"][node]
            total += arrays["value"][node]
        found.append(arrays["start"] + arrays["learning_rate"] * total)
    return np.array(found)


def test_the_stored_trees_predict_what_was_measured(
    data: dict[str, Tensor], whole: Callable[[str], Any]
) -> None:
    trained = whole("trees")
    last = trained.history.iloc[-1]
    assert len(trained.final["offsets"]) == last["step"] + 1
    for pool, name in {"regular": "test_p000", "irregular": "test_p100"}.items():
        errors = _predict(trained.final, data[f"{pool}_inputs"]) - data[f"{pool}_targets"].numpy()
        assert last[f"{name}/mse"] == pytest.approx(np.square(errors).mean(), rel=1e-10)


def test_tree_measures_are_those_of_whole_sets(
    data: dict[str, Tensor], checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments give the numbers that each whole set would have given."""
    fitted: list[Any] = []
    original = _trees._as_tensors
    monkeypatch.setattr(
        _trees, "_as_tensors", lambda model: fitted.append(model) or original(model)
    )
    history = _train(_case(), "trees", data, checkpoints.StoredCheckpoint()).history
    arrays = {name: tensor.double().numpy() for name, tensor in data.items()}
    pools = {pool: data[f"{pool}_inputs"] for pool in ("regular", "irregular")}
    mixed = Mixtures(_case().data.proportions, _TEST).mixed(pools)
    sets = {name: inputs.double().numpy() for name, inputs in (pools | mixed).items()}
    lens = BoostingLens(fitted[0], arrays["train_inputs"], arrays["train_targets"], sets)
    records = pd.DataFrame(list(lens.records())).set_index("step")
    leaves = fitted[0].apply(arrays["train_inputs"])
    for row in history.to_dict("records"):
        step = int(row["step"])
        for name in ("train", *mixed):
            column = f"{name}/kernel_norm_max"
            assert row[column] == pytest.approx(records.loc[:step, column].mean(), rel=1e-12)
        smallest = [np.unique(leaves[:, t], return_counts=True)[1].min() for t in range(step)]
        expected = np.mean(1 / np.sqrt(smallest))
        assert row["train/kernel_norm_max"] == pytest.approx(expected, rel=1e-12)
        for name in ("train", *pools):
            column = f"{name}/effective_parameters"
            assert row[column] == pytest.approx(records.loc[step, column], rel=1e-12)


def test_settings_are_drawn_from_the_search_space() -> None:
    network = network_settings(
        NetworkSearch.model_validate({"epochs": 1, "batch_size": 1, "optimizer": {"name": "sgd"}}),
        400,
        seed=7,
    )
    rates = np.log10([setting["learning_rate"] for setting in network])
    assert -5 <= rates.min() < -4.9
    assert -2.1 < rates.max() <= -2
    assert abs(rates.mean() + 3.5) < 5 * math.sqrt(9 / 12 / 400)
    trees = trees_settings(TreesSearch(), 400, seed=7)
    rates = np.log10([setting["learning_rate"] for setting in trees])
    assert abs(rates.mean() + 2) < 5 / 20
    assert abs(rates.std() - 1) < 5 / math.sqrt(800)
    rounds = [setting["n_estimators"] for setting in trees]
    assert all(isinstance(count, int) for count in rounds)
    assert min(rounds) >= 10
    assert max(rounds) <= 1001
    assert abs(np.median(np.log(rounds)) - math.log(10.5 * 1000.5) / 2) < 0.5
    depths = [setting["max_depth"] for setting in trees]
    assert abs(depths.count(3) / 400 - 0.6) < 5 * math.sqrt(0.24 / 400)
    assert abs(depths.count(None) / 400 - 0.1) < 5 * math.sqrt(0.09 / 400)


def test_more_draws_begin_with_the_same_ones() -> None:
    few, many, other = (
        trees_settings(TreesSearch(), draws, seed) for draws, seed in ((3, 1), (6, 1), (3, 2))
    )
    assert many[:3] == few
    assert other != few


def test_a_draw_that_diverges_loses_the_search(checkpoints: Any) -> None:
    outcomes: list[Any] = [math.nan, 2.0, NonFiniteError("diverged"), 1.0, 1.0, math.inf]

    def error_of(draw: int, setting: dict[str, Any]) -> float:
        if isinstance(outcomes[draw], Exception):
            raise outcomes[draw]
        return float(outcomes[draw])

    stored = checkpoints.StoredCheckpoint()
    checkpoint = SearchCheckpoint(stored)
    assert best_draw([{}] * 6, error_of, checkpoint) == 3
    assert SearchCheckpoint(stored).errors == [None, 2.0, None, 1.0, 1.0, None]
    with pytest.raises(NonFiniteError, match="none of 1 draws"):
        best_draw([{}], lambda *_: math.nan, SearchCheckpoint(checkpoints.StoredCheckpoint()))


def test_a_network_that_always_diverges_is_one_error(
    data: dict[str, Tensor], checkpoints: Any
) -> None:
    case = _case(training__network__learning_rates=[1e6, 1e7])
    with pytest.raises(NonFiniteError, match="lower the learning rates"):
        _train(case, "network", data, checkpoints.StoredCheckpoint())


def test_trees_that_always_diverge_are_one_error(data: dict[str, Tensor], checkpoints: Any) -> None:
    case = _case(
        training__trees={
            "median_learning_rate": 1e80,
            "learning_rate_spread": 1.01,
            "estimators": [5.0, 20.0],
        }
    )
    with pytest.raises(NonFiniteError, match="lower the learning rates"):
        _train(case, "trees", data, checkpoints.StoredCheckpoint())


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"data__tables": ["iris"]}, "tables"),
        ({"data__tables": ["houses", "houses"]}, "tables"),
        ({"data__proportions": [0.5, 1.0]}, "data"),
        ({"data__proportions": [0.0, 0.5, 0.25]}, "proportions"),
        ({"data__proportions": [0.0, 0.333]}, "proportions"),
        ({"training__network__learning_rates": [0.1, 0.01]}, "learning_rates"),
        ({"training__trees__estimators": [0.1, 4.0]}, "trees"),
        ({"training__trees__depths": [0]}, "depths"),
        ({"training__network": None, "training__trees": None}, "training"),
        ({"lens__deflate": 9}, "lens"),
        ({"lens__probes": _TRAIN + 1}, ""),
        ({"lens__stride": 17}, ""),
    ],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError) as caught:
        _case(**changes)
    (problem,) = caught.value.errors()
    assert where in ".".join(map(str, problem["loc"]))


def test_the_default_search_space_is_the_papers() -> None:
    trees = TreesSearch()
    depths = {depth: trees.depths.count(depth) / len(trees.depths) for depth in trees.depths}
    assert depths == {None: 0.1, 2: 0.1, 3: 0.6, 4: 0.1, 5: 0.1}
    assert SimpleNamespace(**trees.model_dump()).estimators == [10.5, 1000.5]
