"""One hidden ReLU layer of every width, trained with momentum on noisy labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from telescope_core.lens import TelescopeLens
from telescope_core.models.mlp import MLP
from telescope_core.schedules import log_spaced_steps
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases._optimizers import build_optimizer
from telescope_pipeline.cases._training import (
    Batches,
    TrainingRun,
    accuracy,
    half_squared_error,
    squared_error,
)
from telescope_pipeline.cases.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.schemas.double_descent import DoubleDescentCase


def members(case: DoubleDescentCase, seed: int) -> list[Member]:
    """One member per width and seed.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one width form a group. The widest, which take longest, come first,
        so that no worker is left with one of them at the end.
    """
    return [
        Member(
            name=f"width-{width:04d}_seed-{replicate}",
            group=f"width-{width:04d}",
            seed=replicate,
            values={"width": width},
            data=f"seed-{replicate}",
        )
        for width in sorted(case.model.widths, reverse=True)
        for replicate in range(case.seeds)
    ]


def train(
    case: DoubleDescentCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one width and record errors, accuracies and effective parameters.

    Args:
        case: The case's parameters.
        member: From :func:`members`.
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
    width = int(member.values["width"])

    def seed_of(purpose: str) -> int:
        return derive_seed(seed, "double_descent", purpose, member.seed)

    model = MLP((inputs.shape[1], width, 1), seed=seed_of("weights")).to(device)
    settings = case.training.optimizer
    optimizer = build_optimizer(
        settings.name,
        model.parameters(),
        settings.learning_rate,
        settings.model_dump(exclude={"name", "learning_rate"}),
    )
    lens = TelescopeLens(
        model,
        optimizer,
        half_squared_error,
        inputs,
        targets,
        eval_sets={"test": data["test_inputs"]},
        order=case.lens.order,
        stride=case.lens.stride,
        probes=case.lens.probes,
        deflate=case.lens.deflate,
        seed=seed_of("probes"),
    )

    def record() -> dict[str, Any]:
        on_train, on_test = model(inputs), model(data["test_inputs"])
        return {
            "train/mse": squared_error(on_train, targets),
            "test/mse": squared_error(on_test, data["test_targets"]),
            "train/accuracy": accuracy(on_train, targets),
            "train/clean_accuracy": accuracy(on_train, data["train_clean_targets"]),
            "test/accuracy": accuracy(on_test, data["test_targets"]),
            **lens.snapshot().to_record(),
        }

    batches = Batches(len(inputs), case.training.batch_size, seed_of("batches"))
    steps = case.training.epochs * batches.per_epoch
    run = TrainingRun(
        model=model,
        optimizer=optimizer,
        lenses={"lens": lens},
        inputs=inputs,
        targets=targets,
        batch=batches.at,
        steps=steps,
        record_steps=log_spaced_steps(steps, case.lens.records, stride=case.lens.stride),
        record=record,
        checkpoint_every=case.lens.checkpoint_every,
    )
    history = run.run(checkpoint, progress)
    return Trained(history, {name: value.cpu() for name, value in model.state_dict().items()})
