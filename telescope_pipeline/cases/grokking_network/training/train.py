"""An MLP from enlarged initial weights, trained with warm-up and weight decay."""

from __future__ import annotations

import torch
from torch import nn

from telescope_pipeline.cases.grokking_network.schema import STANDARD_ALPHA, GrokkingNetworkCase
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.mlp import MLP, with_output
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import Row, fit, outputs_of
from telescope_pipeline.study.training.optimizers import optimizer_of, warmed_up_rate


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
    return with_output(network, output)


def train(job: TrainingJob[GrokkingNetworkCase]) -> Trained:
    """Train one member and record errors, accuracies and effective parameters.

    Members that share a seed start from multiples of the same weights and see the same batches.

    Returns:
        The recorded history and the final weights.
    """
    case, values, data = job.case, job.member.values, job.on_device()
    rows, features = data["train_inputs"].shape
    alpha, output = float(values["alpha"]), str(values["output"])
    model = scaled_network(
        features, case.model.hidden, alpha, output, seed=job.seed_of("weights")
    ).to(job.device)
    training = case.training
    optimizer = optimizer_of(training.optimizer, model)
    lens = attach_lens(model, optimizer, data, case.lens, seed=job.seed_of("probes"))

    def record() -> Row:
        return {**fit(outputs_of(model, data), data), **lens.snapshot().to_record()}

    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={"lens": lens},
        batches=Batches(rows, training.batch_size, job.seed_of("batches")),
        steps=training.comparison.steps if alpha == STANDARD_ALPHA else training.steps,
        settings=case.lens,
        record=record,
        rate=lambda step: warmed_up_rate(training.optimizer.learning_rate, step, training.warm_up),
    ).finish(job)
