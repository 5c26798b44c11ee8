"""Full-batch gradient descent on the quadratic network, with exact effective parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.study.networks.polynomial import PolynomialNetwork
from telescope_pipeline.study.training.loop import Row, TrainingRun, smoother_lens, squared_error
from telescope_pipeline.study.training.replicates import seeds_of
from telescope_pipeline.study.training.schedules import log_spaced_steps


def train(
    case: GrokkingPolynomialCase,
    member: Member,
    data: dict[str, Tensor],
    *,
    seed: int,
    device: torch.device,
    checkpoint: Checkpoint,
    progress: Progress,
) -> Trained:
    """Train one member and record errors and effective parameters at log-spaced steps.

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
    seed_of = seeds_of(member, seed, "grokking_polynomial")
    epsilon = member.values["epsilon"]
    assert isinstance(epsilon, float)
    model = PolynomialNetwork(
        case.data.dimension, case.model.hidden, epsilon, seed=seed_of("weights")
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=case.training.learning_rate)
    lens = smoother_lens(case.lens, model, optimizer, data, seed=seed_of("probes"))

    def record() -> Row:
        return {
            "train/mse": squared_error(model(inputs), targets),
            "test/mse": squared_error(model(data["test_inputs"]), data["test_targets"]),
            **lens.snapshot().to_record(),
        }

    everything = torch.arange(len(inputs), device=device)
    steps = case.steps_with(epsilon)
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        lenses={"lens": lens},
        inputs=inputs,
        targets=targets,
        batch=lambda step: everything,
        steps=steps,
        record_steps=log_spaced_steps(steps, case.lens.records, stride=case.lens.stride),
        record=record,
        checkpoint_every=case.lens.checkpoint_every,
    ).finish(checkpoint, progress)
