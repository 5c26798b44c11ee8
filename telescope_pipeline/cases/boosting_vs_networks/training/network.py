"""The network: searched, then trained once more with lenses attached."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.boosting_vs_networks.schema import (
    BoostingVsNetworksCase,
    NetworkSearch,
)
from telescope_pipeline.cases.boosting_vs_networks.training.mixtures import POOLS, Mixtures
from telescope_pipeline.cases.boosting_vs_networks.training.search import (
    SearchCheckpoint,
    best_draw,
    network_settings,
)
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.loop import (
    Batches,
    TrainingRun,
    attach_lens,
    final_state,
)
from telescope_pipeline.study.training.measures import Row, squared_error
from telescope_pipeline.study.training.optimizers import optimizer_of

# Estimates of the smoother that are recorded of each set.
_OF_SMOOTHER = ("effective_parameters", "effective_parameters_stderr", "smoother_error")

# Of each pool; the rows of a pool are in random order.
_SMOOTHED_ROWS = 1000


class _Forgetful:
    """A checkpoint for draws of a search, which are repeated as a whole."""

    def load(self) -> None:
        return None

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        return None


def train_network(
    job: TrainingJob[BoostingVsNetworksCase], search: NetworkSearch, seed_of: Callable[..., int]
) -> Trained:
    """Search the learning rate, then repeat the best draw with lenses attached.

    All draws start from the same weights and see the same batches, and a lens changes nothing
    about training, so the network that is telescoped is the one that won the search.

    Args:
        job: The member.
        search: What to try.
        seed_of: Seeds by purpose: ``search``, ``weights``, ``batches`` and ``probes``.

    Returns:
        The history and the final weights.

    Raises:
        NonFiniteError: Every draw diverged.
    """
    case, data = job.case, job.on_device()
    rows, features = data["train_inputs"].shape
    batches = Batches(rows, search.batch_size, seed_of("batches"))
    steps, draws = search.epochs * batches.per_epoch, case.training.draws
    total = (draws + 1) * steps

    def prepared(learning_rate: float) -> TrainingRun:
        """Training from the initialisation, the same in every draw, without a record."""
        sizes = (features, *case.model.hidden, 1)
        model = MLP(sizes, seed=seed_of("weights")).to(job.device)
        optimizer = optimizer_of(search.optimizer, model, learning_rate)
        return TrainingRun(model, optimizer, data, {}, batches, steps, case.lens, dict)

    def error(model: torch.nn.Module, part: str) -> float:
        return squared_error(model(data[f"{part}_inputs"]), data[f"{part}_targets"])

    def error_of(draw: int, setting: dict[str, Any]) -> float:
        run = prepared(setting["learning_rate"])
        run.record_steps = [0, steps]
        run.record = lambda: {"validation/mse": error(run.model, "validation")}
        history = run.run(_Forgetful(), lambda done, _: job.progress(draw * steps + done, total))
        return float(history["validation/mse"].iloc[-1])

    searched = SearchCheckpoint(job.checkpoint)
    settings = network_settings(search, draws, seed_of("search"))
    chosen = settings[best_draw(settings, error_of, searched)]
    run = prepared(chosen["learning_rate"])
    mixtures = Mixtures(case.data.proportions, case.data.test_size)
    run.lenses = lenses = _lenses(run, case, mixtures, seed_of("probes"))
    mixed_targets = mixtures.mixed({pool: data[f"{pool}_targets"] for pool in POOLS})

    def record() -> Row:
        measured: Row = {f"{part}/mse": error(run.model, part) for part in ("train", "validation")}
        norms = lenses["norms"]
        kernel = norms.snapshot().to_record()
        for name, targets in mixed_targets.items():
            measured[f"{name}/mse"] = squared_error(norms.predictions(name), targets)
        smoother = lenses["smoother"].snapshot().to_record()
        for name in ("train", *mixed_targets):
            # Norms are means over steps, so there are none before the first.
            if norms.steps:
                measured[f"{name}/kernel_norm_max"] = kernel[f"{name}/kernel_norm_max"]
        for name in ("train", *POOLS):
            for quantity in _OF_SMOOTHER:
                measured[f"{name}/{quantity}"] = smoother[f"{name}/{quantity}"]
        measured["train/degrees_of_freedom"] = smoother["train/degrees_of_freedom"]
        return measured

    run.record = record
    history = run.run(searched, lambda done, _: job.progress(draws * steps + done, total))
    history = history[history["step"] > 0].reset_index(drop=True)
    history["search/learning_rate"] = float(chosen["learning_rate"])
    history["search/max_depth"] = math.nan
    return Trained(history, final_state(run.model))


def _lenses(
    run: TrainingRun, case: BoostingVsNetworksCase, mixtures: Mixtures, seed: int
) -> dict[str, TelescopeLens]:
    """One lens for kernel norms on every test set, one for the smoother on what they are made of.

    The largest norm of a set is a maximum at every step, so each set needs its own; effective
    parameters are means over rows, so some rows of the two pools are enough.

    Returns:
        The lenses by name, ``"norms"`` and ``"smoother"``.
    """
    pools = {pool: run.data[f"{pool}_inputs"] for pool in POOLS}
    watched = (run.model, run.optimizer, run.data)
    norms = attach_lens(
        *watched,
        eval_sets=mixtures.mixed(pools),
        order=case.lens.order,
        stride=case.lens.norm_stride,
        probes=None,
        kernel_norms=True,
    )
    some = {pool: rows[:_SMOOTHED_ROWS] for pool, rows in pools.items()}
    smoother = attach_lens(*watched, case.lens, eval_sets=some, seed=seed)
    return {"norms": norms, "smoother": smoother}
