"""A small convolutional network trained on cross-entropy, at every level of label noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.convolutional_network.names import (
    layer_column,
)
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.convolutional import ConvolutionalNetwork
from telescope_pipeline.study.training.loop import Batches, TrainingRun, class_accuracy
from telescope_pipeline.study.training.optimizers import optimizer_of
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps

CLASSES = 10
_SETS = ("train", "test")


def train(
    case: ConvolutionalNetworkCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one network and record losses, accuracies, kernel norms and effective parameters.

    Members that share a seed start from the same weights and see the same batches and probes.

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

    seed_of = seeds_of(member, seed, "convolutional_network")

    channels, side = inputs.shape[1:3]
    model = ConvolutionalNetwork(
        channels, side, CLASSES, widths=case.model.widths, seed=seed_of("weights")
    ).to(device)
    optimizer = optimizer_of(case.training.optimizer, model)
    lens = TelescopeLens(
        model,
        optimizer,
        functional.cross_entropy,
        inputs,
        targets,
        eval_sets={"test": data["test_inputs"]},
        order=case.lens.order,
        stride=case.lens.stride,
        probes=case.lens.probes,
        deflate=case.lens.deflate,
        chunk_size=case.lens.chunk_size,
        kernel_norms=True,
        layer_shares=True,
        seed=seed_of("probes"),
    )

    def record() -> dict[str, Any]:
        # The lens evaluates in chunks, so that no set has to pass through the network at once.
        on_train, on_test = lens.predictions("train"), lens.predictions("test")
        row = {
            "train/loss": _loss(on_train, targets),
            "test/loss": _loss(on_test, data["test_targets"]),
            "train/accuracy": class_accuracy(on_train, targets),
            "train/clean_accuracy": class_accuracy(on_train, data["train_clean_targets"]),
            "test/accuracy": class_accuracy(on_test, data["test_targets"]),
        }
        return row | _columns(lens)

    batches = Batches(len(inputs), case.training.batch_size, seed_of("batches"))
    steps = case.training.epochs * batches.per_epoch
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
        loss=functional.cross_entropy,
    ).finish(checkpoint, progress)


def _columns(lens: TelescopeLens) -> dict[str, float]:
    """The lens's record under names that a table takes, with layers behind an @."""
    row: dict[str, float] = {}
    for key, value in lens.snapshot().to_record().items():
        name, _, layer = key.partition("/effective_parameters/")
        # Before the first step S is 0, and so is every layer's part of it; kernel rows have not
        # been measured yet, and their running means are started at 0.
        unmeasured = lens.steps == 0 and (layer or "/kernel_norm" in key)
        row[layer_column(name, layer) if layer else key] = 0.0 if unmeasured else value
    return row


def _loss(outputs: Tensor, targets: Tensor) -> float:
    """Mean cross-entropy, accumulated in float64."""
    return float(functional.cross_entropy(outputs.cpu().double(), targets.cpu()))
