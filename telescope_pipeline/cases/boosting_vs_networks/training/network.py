"""The network: searched, then trained once more with lenses attached."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd
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
from telescope_pipeline.contract import Checkpoint, Progress, Trained
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.loop import (
    Batches,
    TrainingRun,
    half_squared_error,
    smoother_lens,
    squared_error,
)
from telescope_pipeline.study.training.optimizers import optimizer_of
from telescope_pipeline.study.training.replicates import SeedOf
from telescope_pipeline.study.training.schedules import log_spaced_steps


class _Run:
    """Everything that the draws of a search and the final training share."""

    def __init__(
        self,
        case: BoostingVsNetworksCase,
        search: NetworkSearch,
        data: dict[str, Tensor],
        seed_of: SeedOf,
    ) -> None:
        self.case = case
        self.search = search
        self.data = data
        self.seed_of = seed_of
        self.mixtures = Mixtures(case.data.proportions, case.data.test_size)
        rows = len(data["train_inputs"])
        self.batches = Batches(rows, search.batch_size, seed_of("batches"))
        self.steps = search.epochs * self.batches.per_epoch

    def model(self) -> MLP:
        """The network at its initialisation, the same in every draw."""
        inputs = self.data["train_inputs"]
        sizes = (inputs.shape[1], *self.case.model.hidden, 1)
        return MLP(sizes, seed=self.seed_of("weights")).to(inputs.device)

    def optimizer(self, model: MLP, learning_rate: float) -> torch.optim.Optimizer:
        return optimizer_of(self.search.optimizer, model, learning_rate)

    def error(self, model: MLP, part: str) -> float:
        return squared_error(model(self.data[f"{part}_inputs"]), self.data[f"{part}_targets"])

    def train(
        self,
        model: MLP,
        optimizer: torch.optim.Optimizer,
        lenses: dict[str, TelescopeLens],
        record_steps: list[int],
        record: Callable[[], dict[str, Any]],
        checkpoint: Checkpoint,
        progress: Progress,
    ) -> pd.DataFrame:
        return TrainingRun(
            model=model,
            optimizer=optimizer,
            lenses=lenses,
            inputs=self.data["train_inputs"],
            targets=self.data["train_targets"],
            batch=self.batches.at,
            steps=self.steps,
            record_steps=record_steps,
            record=record,
            checkpoint_every=self.case.lens.checkpoint_every,
        ).run(checkpoint, progress)


class _Forgetful:
    """A checkpoint for draws of a search, which are repeated as a whole."""

    def load(self) -> None:
        return None

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        return None


def train_network(
    case: BoostingVsNetworksCase,
    search: NetworkSearch,
    data: dict[str, Tensor],
    *,
    seed_of: SeedOf,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Search the learning rate, then repeat the best draw with lenses attached.

    All draws start from the same weights and see the same batches, and a lens changes nothing
    about training, so the network that is telescoped is the one that won the search.

    Args:
        case: The case's parameters.
        search: What to try.
        data: Tensors of the member's file, on the device to compute on.
        seed_of: Seeds by purpose: ``search``, ``weights``, ``batches`` and ``probes``.
        checkpoint: Where the state is kept.
        progress: Told about finished updates, those of the search included.

    Returns:
        The history and the final weights.

    Raises:
        NonFiniteError: Every draw diverged.
    """
    run = _Run(case, search, data, seed_of)
    draws = case.training.draws
    total = (draws + 1) * run.steps
    searched = SearchCheckpoint(checkpoint)
    settings = network_settings(search, draws, seed_of("search"))

    def error_of(draw: int, setting: dict[str, Any]) -> float:
        model = run.model()
        optimizer = run.optimizer(model, setting["learning_rate"])
        history = run.train(
            model,
            optimizer,
            {},
            [0, run.steps],
            lambda: {"validation/mse": run.error(model, "validation")},
            _Forgetful(),
            lambda done, _: progress(draw * run.steps + done, total),
        )
        return float(history["validation/mse"].iloc[-1])

    chosen = settings[best_draw(settings, error_of, searched)]
    model = run.model()
    optimizer = run.optimizer(model, chosen["learning_rate"])
    lenses = _lenses(run, model, optimizer)
    mixed_targets = run.mixtures.mixed({pool: data[f"{pool}_targets"] for pool in POOLS})

    def record() -> dict[str, Any]:
        measured = {f"{part}/mse": run.error(model, part) for part in ("train", "validation")}
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
            for quantity in (
                "effective_parameters",
                "effective_parameters_stderr",
                "smoother_error",
            ):
                measured[f"{name}/{quantity}"] = smoother[f"{name}/{quantity}"]
        measured["train/degrees_of_freedom"] = smoother["train/degrees_of_freedom"]
        return measured

    history = run.train(
        model,
        optimizer,
        lenses,
        log_spaced_steps(run.steps, case.lens.records, stride=case.lens.stride),
        record,
        searched,
        lambda done, _: progress(draws * run.steps + done, total),
    )
    history = history[history["step"] > 0].reset_index(drop=True)
    history["search/learning_rate"] = float(chosen["learning_rate"])
    history["search/max_depth"] = math.nan
    return Trained(history, {name: value.cpu() for name, value in model.state_dict().items()})


def _lenses(run: _Run, model: MLP, optimizer: torch.optim.Optimizer) -> dict[str, TelescopeLens]:
    """One lens for kernel norms on every test set, one for the smoother on what they are made of.

    The largest norm of a set is a maximum at every step, so each set needs its own; effective
    parameters are means over rows, so the two pools are enough.
    """
    case, data = run.case, run.data
    pools = {pool: data[f"{pool}_inputs"] for pool in POOLS}
    inputs, targets = data["train_inputs"], data["train_targets"]
    norms = TelescopeLens(
        model,
        optimizer,
        half_squared_error,
        inputs,
        targets,
        eval_sets=run.mixtures.mixed(pools),
        order=case.lens.order,
        stride=case.lens.norm_stride,
        probes=None,
        kernel_norms=True,
    )
    smoother = smoother_lens(
        case.lens, model, optimizer, data, seed=run.seed_of("probes"), eval_sets=tuple(pools)
    )
    return {"norms": norms, "smoother": smoother}
