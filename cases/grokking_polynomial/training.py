"""Full-batch gradient descent on the quadratic network, with exact effective parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from telescope_core.lens import TelescopeLens
from telescope_core.models.polynomial import PolynomialNetwork
from telescope_core.schedules import log_spaced_steps
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases._training import TrainingRun, half_squared_error, squared_error
from telescope_pipeline.cases.contract import Checkpoint, Member, Progress, Trained
from telescope_pipeline.schemas.grokking_polynomial import GrokkingPolynomialCase


def members(case: GrokkingPolynomialCase, seed: int) -> list[Member]:
    """One member per seed: its own problem and its own initialisation.

    Args:
        case: The case's parameters.
        seed: The run's seed; unused, since members are told apart by their number.

    Returns:
        The members, all in one group.
    """
    return [
        Member(
            name=f"polynomial_seed-{replicate}",
            group="polynomial",
            seed=replicate,
            values={},
            data=f"seed-{replicate}",
        )
        for replicate in range(case.seeds)
    ]


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
    model = PolynomialNetwork(
        case.data.dimension,
        case.model.hidden,
        case.model.epsilon,
        seed=derive_seed(seed, "grokking_polynomial", "weights", member.seed),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=case.training.learning_rate)
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
        seed=derive_seed(seed, "grokking_polynomial", "probes", member.seed),
    )

    def record() -> dict[str, Any]:
        return {
            "train/mse": squared_error(model(inputs), targets),
            "test/mse": squared_error(model(data["test_inputs"]), data["test_targets"]),
            **lens.snapshot().to_record(),
        }

    everything = torch.arange(len(inputs), device=device)
    steps = case.training.steps
    run = TrainingRun(
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
    )
    history = run.run(checkpoint, progress)
    return Trained(history, {name: value.cpu() for name, value in model.state_dict().items()})
