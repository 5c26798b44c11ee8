"""Full-batch gradient descent on the quadratic network, with exact effective parameters."""

from __future__ import annotations

import torch

from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.polynomial import PolynomialNetwork
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import Row, outputs_of, squared_error


def train(job: TrainingJob[GrokkingPolynomialCase]) -> Trained:
    """Train one member and record errors and effective parameters at log-spaced steps."""
    case, data = job.case, job.on_device()
    epsilon = float(job.member.values["epsilon"])
    model = PolynomialNetwork(
        case.data.dimension, case.model.hidden, epsilon, seed=job.seed_of("weights")
    ).to(job.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=case.training.learning_rate)
    lens = attach_lens(model, optimizer, data, case.lens, seed=job.seed_of("probes"))

    def record() -> Row:
        errors = {
            f"{name}/mse": squared_error(outputs, data[f"{name}_targets"])
            for name, outputs in outputs_of(model, data).items()
        }
        return {**errors, **lens.snapshot().to_record()}

    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={"lens": lens},
        batches=Batches(len(data["train_inputs"]), None),
        steps=case.steps_with(epsilon),
        settings=case.lens,
        record=record,
    ).finish(job)
