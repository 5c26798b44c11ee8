"""One network per setting and learning rate, watched by several lenses side by side."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.approximation_quality.names import lens_name
from telescope_pipeline.cases.approximation_quality.schema import ApproximationQualityCase
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.loop import (
    Batches,
    Row,
    TrainingRun,
    accuracy,
    fit,
    half_squared_error,
)
from telescope_pipeline.study.training.optimizers import optimizer_of
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps


def train(
    case: ApproximationQualityCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one member and record every lens's errors on the same run.

    Members that share a seed start from the same weights and see the same batches, whatever their
    optimizer and output.

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

    seed_of = seeds_of(member, seed, "approximation_quality")
    (setting,) = (s for s in case.training.settings if s.label == member.values["setting"])
    model: nn.Module = MLP((inputs.shape[1], *case.model.hidden, 1), seed=seed_of("weights"))
    if setting.output == "sigmoid":
        model = nn.Sequential(model, nn.Sigmoid())
    model = model.to(device)
    optimizer = optimizer_of(setting.optimizer, model, float(member.values["learning_rate"]))
    lenses = {
        lens_name(variant.order, variant.stride): TelescopeLens(
            model,
            optimizer,
            half_squared_error,
            inputs,
            targets,
            eval_sets={"test": data["test_inputs"]},
            order=variant.order,
            stride=variant.stride,
            probes=None,
        )
        for variant in case.lens.lenses
    }

    def record() -> Row:
        row, goal = fit(model, data), data["test_targets"]
        for position, (name, lens) in enumerate(lenses.items()):
            seen = lens.snapshot().to_record()
            if position == 0:
                # The lazy linearisation depends on the run alone, not on the lens.
                row["train/linearization_error"] = seen["train/linearization_error"]
                row["test/linearization_error"] = seen["test/linearization_error"]
                row["test/linearized_accuracy"] = accuracy(lens.linearized("test"), goal)
            row[f"train/approximation_error@{name}"] = seen["train/approximation_error"]
            row[f"test/approximation_error@{name}"] = seen["test/approximation_error"]
            row[f"test/accuracy@{name}"] = accuracy(lens.telescoped("test"), goal)
        return row

    batches = Batches(len(inputs), case.training.batch_size, seed_of("batches"))
    steps = case.training.steps
    longest = max(variant.stride for variant in case.lens.lenses)
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        lenses=lenses,
        inputs=inputs,
        targets=targets,
        batch=batches.at,
        steps=steps,
        record_steps=log_spaced_steps(steps, case.lens.records, stride=longest),
        record=record,
        checkpoint_every=case.lens.checkpoint_every,
    ).finish(checkpoint, progress)
