"""A transformer trained by cross-entropy with weight decay, watched by one lens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.transformer import Transformer
from telescope_pipeline.study.training.loop import Batches, TrainingRun, class_accuracy
from telescope_pipeline.study.training.optimizers import optimizer_of, warmed_up_rate
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps

# The two summands and the equals sign.
_LENGTH = 3


def train(
    case: ModularAdditionCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one member and record losses, accuracies and effective parameters.

    Labels of the smoother are the one-hot rows of the classes: effective parameters are those of
    the sensitivity of the telescoped logits to them (MATH section 2, last paragraph).

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
    sets = {name: (data[f"{name}_inputs"], data[f"{name}_targets"]) for name in ("train", "test")}
    inputs, targets = sets["train"]
    test_targets = data["test_targets"]

    seed_of = seeds_of(member, seed, "modular_addition")

    modulus = case.data.modulus
    model = Transformer(
        modulus + 1,
        _LENGTH,
        modulus,
        width=case.model.width,
        heads=case.model.heads,
        blocks=case.model.blocks,
        hidden=case.model.hidden,
        causal=case.model.causal,
        seed=seed_of("weights"),
    ).to(device)
    settings = case.training.optimizer
    optimizer = optimizer_of(settings, model)
    lens = TelescopeLens(
        model,
        optimizer,
        cross_entropy,
        inputs,
        targets,
        eval_sets={"test": data["test_inputs"]},
        order=case.lens.order,
        stride=case.lens.stride,
        probes=case.lens.probes,
        deflate=case.lens.deflate,
        seed=seed_of("probes"),
        # With p outputs and few columns, linearising costs more than the products with J; this
        # strategy linearises once a block instead of twice.
        strategy="parameter-space",
    )

    def record() -> dict[str, Any]:
        measured = {}
        for name, (rows, classes) in sets.items():
            logits = model(rows)
            measured[f"{name}/cross_entropy"] = float(
                cross_entropy(logits.cpu().double(), classes.cpu())
            )
            measured[f"{name}/accuracy"] = class_accuracy(logits, classes)
        measured["test/telescoped_accuracy"] = class_accuracy(lens.telescoped("test"), test_targets)
        measured["test/linearized_accuracy"] = class_accuracy(lens.linearized("test"), test_targets)
        return {**measured, **lens.snapshot().to_record()}

    batches = Batches(len(inputs), case.training.batch_size or len(inputs), seed_of("batches"))

    def next_batch(step: int) -> Tensor:
        # A function of the step alone, so a resumed run needs no state of a scheduler. It is asked
        # for once before each update.
        rate = warmed_up_rate(settings.learning_rate, step, case.training.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return batches.at(step)

    steps = case.training.steps
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        lenses={"lens": lens},
        inputs=inputs,
        targets=targets,
        batch=next_batch,
        steps=steps,
        record_steps=log_spaced_steps(steps, case.lens.records, stride=case.lens.stride),
        record=record,
        checkpoint_every=case.lens.checkpoint_every,
        loss=cross_entropy,
    ).finish(checkpoint, progress)
