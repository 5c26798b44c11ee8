"""One hidden ReLU layer of every width, trained with momentum on noisy labels."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.early_stopping import EarlyStopping
from telescope_pipeline.study.training.loop import (
    Batches,
    Row,
    TrainingRun,
    accuracy,
    fit,
    smoother_lens,
    squared_error,
)
from telescope_pipeline.study.training.optimizers import optimizer_of
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps


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
    width = int(member.values["width"])

    seed_of = seeds_of(member, seed, "double_descent")
    model = MLP((inputs.shape[1], width, 1), seed=seed_of("weights")).to(device)
    optimizer = optimizer_of(case.training.optimizer, model)
    lens = smoother_lens(case.lens, model, optimizer, data, seed=seed_of("probes"))

    def record() -> Row:
        return {**fit(model, data), **lens.snapshot().to_record()}

    def measure() -> tuple[float, float]:
        with torch.no_grad():
            outputs = model(inputs)
        return 0.5 * squared_error(outputs, targets), accuracy(outputs, targets)

    batches = Batches(len(inputs), case.training.batch_size, seed_of("batches"))
    steps = case.training.epochs * batches.per_epoch
    settings = case.training.early_stopping
    stopping = None if settings is None else EarlyStopping(settings, batches.per_epoch, measure)
    return TrainingRun(
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
        stopping=stopping,
    ).finish(checkpoint, progress)
