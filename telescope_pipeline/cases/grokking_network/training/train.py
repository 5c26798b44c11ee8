"""An MLP from enlarged initial weights, trained with warm-up and weight decay."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.loop import (
    Batches,
    Row,
    TrainingRun,
    fit,
    smoother_lens,
)
from telescope_pipeline.study.training.optimizers import optimizer_of, warmed_up_rate
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps


def scaled_network(
    inputs: int, hidden: list[int], alpha: float, output: str, *, seed: int
) -> nn.Module:
    """Build the network whose initial parameters are ``alpha * theta_0`` (after Liu et al. 2022).

    Args:
        inputs: Number of input features.
        hidden: Hidden widths.
        alpha: Multiplies every initial weight and bias.
        output: ``linear``, or ``sigmoid`` for a sigmoid after the last layer.
        seed: Seed of ``theta_0``, which is the same for every alpha and output.

    Returns:
        A network with one output, rows (rows, 1).
    """
    network = MLP((inputs, *hidden, 1), seed=seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(alpha)
    return nn.Sequential(network, nn.Sigmoid()) if output == "sigmoid" else network


def train(
    case: GrokkingNetworkCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one member and record errors, accuracies and effective parameters.

    Members that share a seed start from multiples of the same weights and see the same batches.

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
    alpha, output = float(member.values["alpha"]), str(member.values["output"])

    seed_of = seeds_of(member, seed, "grokking_network")
    model = scaled_network(
        inputs.shape[1], case.model.hidden, alpha, output, seed=seed_of("weights")
    ).to(device)
    settings = case.training.optimizer
    optimizer = optimizer_of(settings, model)
    lens = smoother_lens(case.lens, model, optimizer, data, seed=seed_of("probes"))

    def record() -> Row:
        return {**fit(model, data), **lens.snapshot().to_record()}

    batches = Batches(len(inputs), case.training.batch_size, seed_of("batches"))

    def next_batch(step: int) -> Tensor:
        # A function of the step alone, so a resumed run needs no state of a scheduler. It is asked
        # for once before each update.
        rate = warmed_up_rate(settings.learning_rate, step, case.training.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return batches.at(step)

    steps = case.training.comparison.steps if alpha == STANDARD_ALPHA else case.training.steps
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
    ).finish(checkpoint, progress)
