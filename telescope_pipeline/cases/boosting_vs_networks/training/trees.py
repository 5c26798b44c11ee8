"""The boosted trees: searched, then read round by round."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from sklearn.ensemble import GradientBoostingRegressor
from torch import Tensor

from telescope_core.boosting import BoostingLens
from telescope_pipeline.cases.boosting_vs_networks.schema import BoostingVsNetworksCase, TreesSearch
from telescope_pipeline.cases.boosting_vs_networks.sweep import set_name
from telescope_pipeline.cases.boosting_vs_networks.training.mixtures import POOLS, Mixtures, Segment
from telescope_pipeline.cases.boosting_vs_networks.training.search import (
    SearchCheckpoint,
    Setting,
    best_draw,
    trees_settings,
)
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.training.schedules import log_spaced_steps

_Floats = npt.NDArray[np.float64]
_Record = dict[str, float]
_AVERAGED = ("effective_parameters", "smoother_error")


def train_trees(
    job: TrainingJob[BoostingVsNetworksCase], search: TreesSearch, seed_of: Callable[..., int]
) -> Trained:
    """Search the settings of scikit-learn's gradient boosting, then follow the best trees.

    Args:
        job: The member; its progress is told about finished draws, the final fit included.
        search: What to try.
        seed_of: Seeds by purpose: ``search`` and ``trees``.

    Returns:
        The history over rounds and the arrays of the trees.

    Raises:
        NonFiniteError: Every draw diverged.
    """
    case = job.case
    arrays = {name: tensor.cpu().double().numpy() for name, tensor in job.data.items()}
    settings = trees_settings(search, case.training.draws, seed_of("search"))

    def fit(setting: Setting) -> GradientBoostingRegressor:
        model = GradientBoostingRegressor(random_state=seed_of("trees") % 2**32, **setting)
        return model.fit(arrays["train_inputs"], arrays["train_targets"])

    def error_of(draw: int, setting: Setting) -> float:
        # A large rate overflows; such a draw counts as one of infinite error.
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                predicted = fit(setting).predict(arrays["validation_inputs"])
            except ValueError as error:
                if "infinity" not in str(error):
                    raise
                return math.inf
            found = _mse(predicted, arrays["validation_targets"])
        job.progress(draw + 1, len(settings) + 1)
        return found

    chosen = settings[best_draw(settings, error_of, SearchCheckpoint(job.checkpoint))]
    model = fit(chosen)
    mixtures = Mixtures(case.data.proportions, case.data.test_size)
    rounds = log_spaced_steps(int(model.n_estimators_), case.lens.records)[1:]
    history = _follow(model, arrays, mixtures, rounds)
    history["search/learning_rate"] = float(chosen["learning_rate"])
    depth = chosen["max_depth"]
    history["search/max_depth"] = math.nan if depth is None else float(depth)
    job.progress(len(settings) + 1, len(settings) + 1)
    return Trained(history, _as_tensors(model))


def _follow(
    model: GradientBoostingRegressor,
    arrays: dict[str, _Floats],
    mixtures: Mixtures,
    rounds: list[int],
) -> pd.DataFrame:
    """The records of the wanted rounds, with kernel norms averaged over all rounds so far."""
    segments = mixtures.segments()
    inputs = {s.name: arrays[f"{s.pool}_inputs"][s.start : s.stop] for s in segments}
    lens = BoostingLens(model, arrays["train_inputs"], arrays["train_targets"], inputs)
    norm_sums = dict.fromkeys(["train", *mixtures.names], 0.0)
    wanted, rows = set(rounds), []
    errors = _staged_errors(model, arrays, mixtures)
    for record, mse in zip(lens.records(), errors, strict=True):
        step = int(record["step"])
        norm_sums["train"] += record["train/kernel_norm_max"]
        for proportion in mixtures.proportions:
            inside = [record[f"{s.name}/kernel_norm_max"] for s in mixtures.inside(proportion)]
            norm_sums[set_name(proportion)] += max(inside)
        if step in wanted:
            norms = {f"{name}/kernel_norm_max": total / step for name, total in norm_sums.items()}
            rows.append({"step": step, **mse, **norms, **_complexity(record, segments)})
    return pd.DataFrame(rows).astype({"step": "int64"})


def _complexity(record: _Record, segments: list[Segment]) -> _Record:
    """Means over rows, from those of the segments."""
    measured = {"train/degrees_of_freedom": record["train/degrees_of_freedom"]}
    parts = {pool: [s for s in segments if s.pool == pool] for pool in POOLS}
    for quantity in _AVERAGED:
        measured[f"train/{quantity}"] = record[f"train/{quantity}"]
        for pool, inside in parts.items():
            rows = sum(s.rows for s in inside)
            total = sum(s.rows * record[f"{s.name}/{quantity}"] for s in inside)
            measured[f"{pool}/{quantity}"] = total / rows
    # The smoother of trees is exact.
    return measured | {f"{name}/effective_parameters_stderr": 0.0 for name in ("train", *POOLS)}


def _staged_errors(
    model: GradientBoostingRegressor, arrays: dict[str, _Floats], mixtures: Mixtures
) -> list[_Record]:
    """Mean squared errors after every round."""
    parts = ("train", "validation")
    squares = {
        part: [
            np.square(predicted - arrays[f"{part}_targets"])
            for predicted in model.staged_predict(arrays[f"{part}_inputs"])
        ]
        for part in (*parts, *POOLS)
    }
    errors = []
    for at_round in range(len(squares["train"])):
        measured = {f"{part}/mse": float(squares[part][at_round].mean()) for part in parts}
        for proportion in mixtures.proportions:
            inside = [
                squares[pool][at_round][:rows] for pool, rows in mixtures.rows(proportion).items()
            ]
            measured[f"{set_name(proportion)}/mse"] = float(np.concatenate(inside).mean())
        errors.append(measured)
    return errors


def _mse(predicted: Any, targets: _Floats) -> float:
    return float(np.square(predicted - targets).mean())


def _as_tensors(model: GradientBoostingRegressor) -> dict[str, Tensor]:
    """All nodes of all trees, one tree behind the other.

    The tree of round t holds the nodes ``offsets[t]`` to ``offsets[t + 1]``; children are counted
    from the tree's first node, -1 marks a leaf. Predictions are
    ``start + learning_rate · Σ_t value[leaf of tree t]``; a row goes left when its feature, in
    single precision, is at most the threshold.

    Returns:
        The columns of nodes by name, with ``offsets``, ``start`` and ``learning_rate``.
    """
    trees = [estimator.tree_ for estimator in model.estimators_[:, 0]]
    offsets = np.cumsum([0, *(tree.node_count for tree in trees)])
    start = np.asarray(model.init_.constant_, dtype=np.float64).reshape(())
    columns = {
        "feature": np.concatenate([tree.feature for tree in trees]),
        "left": np.concatenate([tree.children_left for tree in trees]),
        "right": np.concatenate([tree.children_right for tree in trees]),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "value": np.concatenate([tree.value[:, 0, 0] for tree in trees]),
        "offsets": offsets,
        "start": start,
        "learning_rate": np.asarray(model.learning_rate, dtype=np.float64),
    }
    return {name: torch.from_numpy(np.array(column)) for name, column in columns.items()}
