"""An MLP from enlarged initial weights, trained with warm-up and weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from telescope_core.lens import TelescopeLens
from telescope_core.models.mlp import MLP
from telescope_core.schedules import log_spaced_steps
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases._optimizers import build_optimizer, warmed_up_rate
from telescope_pipeline.cases._training import (
    Batches,
    TrainingRun,
    accuracy,
    half_squared_error,
    squared_error,
)
from telescope_pipeline.cases.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.cases.grokking_network.names import group_name
from telescope_pipeline.schemas.grokking_network import STANDARD_ALPHA, GrokkingNetworkCase


def members(case: GrokkingNetworkCase, seed: int) -> list[Member]:
    """One member per seed for every alpha, and for every output at alpha = 1.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members; those of one alpha and output form a group. The enlarged ones, which take
        longest, come first.
    """
    settings = [(alpha, "linear") for alpha in sorted(case.model.alphas, reverse=True)]
    settings += [(STANDARD_ALPHA, output) for output in case.comparison.outputs]
    return [
        Member(
            name=f"{group_name(alpha, output)}_seed-{replicate}",
            group=group_name(alpha, output),
            seed=replicate,
            values={"alpha": alpha, "output": output},
            data=f"seed-{replicate}",
        )
        for alpha, output in settings
        for replicate in range(case.seeds)
    ]


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
    alpha, output = float(member.values["alpha"]), str(member.values["output"])

    def seed_of(purpose: str) -> int:
        return derive_seed(seed, "grokking_network", purpose, member.seed)

    model = scaled_network(
        inputs.shape[1], case.model.hidden, alpha, output, seed=seed_of("weights")
    ).to(device)
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
            "test/accuracy": accuracy(on_test, data["test_targets"]),
            **lens.snapshot().to_record(),
        }

    batches = Batches(len(inputs), case.training.batch_size, seed_of("batches"))

    def next_batch(step: int) -> Tensor:
        # A function of the step alone, so a resumed run needs no state of a scheduler. It is asked
        # for once before each update.
        rate = warmed_up_rate(settings.learning_rate, step, case.training.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return batches.at(step)

    steps = case.comparison.steps if alpha == STANDARD_ALPHA else case.training.steps
    run = TrainingRun(
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
    )
    history = run.run(checkpoint, progress)
    return Trained(history, {name: value.cpu() for name, value in model.state_dict().items()})
