"""Networks of every depth, each watched by a lens of first and one of second order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.depth.names import (
    ORDERS,
    error_column,
    lens_name,
)
from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.deep import DeepNetwork
from telescope_pipeline.study.training.loop import (
    Batches,
    TrainingRun,
    accuracy,
    half_squared_error,
    squared_error,
)
from telescope_pipeline.study.training.optimizers import optimizer_of
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps


def train(
    case: DepthCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one network and record the telescoping errors of both orders on the same run.

    Members that share a seed see the same batches, whatever their depth.

    Args:
        case: The case's parameters.
        member: One of the case's members.
        data: Tensors of the member's file.
        seed: The run's seed.
        device: Where to compute.
        checkpoint: Where the state is kept.
        progress: Told about finished updates.

    Returns:
        The history and the final weights.
    """
    data = {name: tensor.to(device) for name, tensor in data.items()}
    inputs, targets = data["train_inputs"], data["train_targets"]

    seed_of = seeds_of(member, seed, "depth")

    model = DeepNetwork(
        inputs.shape[1],
        1,
        width=case.model.width,
        depth=int(member.values["depth"]),
        residual=member.values["architecture"] == "residual",
        activation=case.model.activation,
        seed=seed_of("weights"),
    ).to(device)
    optimizer = optimizer_of(case.training.optimizer, model)
    lenses = {
        order: TelescopeLens(
            model,
            optimizer,
            half_squared_error,
            inputs,
            targets,
            eval_sets={"test": data["test_inputs"]},
            order=order,
            stride=case.lens.stride,
            probes=None,
        )
        for order in ORDERS
    }
    # Outputs and the lazy linearisation depend on the run alone: one lens tells, which spares the
    # other a pass at the initialisation.
    reference = lenses[ORDERS[0]]

    def record() -> dict[str, Any]:
        on_train, on_test = reference.predictions("train"), reference.predictions("test")
        return {
            "train/mse": squared_error(on_train, targets),
            "test/mse": squared_error(on_test, data["test_targets"]),
            "train/accuracy": accuracy(on_train, targets),
            "test/accuracy": accuracy(on_test, data["test_targets"]),
            "test/linearization_error": _mean_gap(on_test, reference.linearized("test")),
            **{
                error_column(order): _mean_gap(on_test, lens.telescoped("test"))
                for order, lens in lenses.items()
            },
        }

    batches = Batches(len(inputs), case.training.batch_size, seed_of("batches"))
    steps = case.training.steps
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        lenses={lens_name(order): lens for order, lens in lenses.items()},
        inputs=inputs,
        targets=targets,
        batch=batches.at,
        steps=steps,
        record_steps=log_spaced_steps(steps, case.lens.records, stride=case.lens.stride),
        record=record,
        checkpoint_every=case.lens.checkpoint_every,
    ).finish(checkpoint, progress)


def _mean_gap(actual: Tensor, modelled: Tensor) -> float:
    """Mean absolute difference, accumulated in float64."""
    return float((actual - modelled).abs().cpu().double().mean())
