"""One hidden ReLU layer of every width, trained with momentum on noisy labels."""

from __future__ import annotations

import torch

from telescope_pipeline.cases.double_descent.schema import DoubleDescentCase
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.schemas.sections import SGD
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.early_stopping import EarlyStopping
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import (
    Row,
    accuracy,
    fit,
    outputs_of,
    squared_error,
)
from telescope_pipeline.study.training.optimizers import optimizer_of


def train(job: TrainingJob[DoubleDescentCase]) -> Trained:
    """Train one width and record errors, accuracies and effective parameters."""
    case, data = job.case, job.on_device()
    inputs, targets = data["train_inputs"], data["train_targets"]
    width = int(job.member.values["width"])
    model = MLP((inputs.shape[1], width, 1), seed=job.seed_of("weights")).to(job.device)
    optimizer = optimizer_of(case.training.optimizer, model)
    options = case.training.optimizer
    # Through the kernel a step costs the same at every width; only SGD without decay moves so.
    # Where parameters are fewer than labels, a kernel frozen over a block is too crude.
    by_kernel = (
        isinstance(options, SGD)
        and not (options.weight_decay or options.dampening)
        and sum(p.numel() for p in model.parameters()) >= len(targets)
    )
    lens = attach_lens(
        model,
        optimizer,
        data,
        case.lens,
        seed=job.seed_of("probes"),
        strategy="function-space" if by_kernel else "auto",
    )

    def record() -> Row:
        return {**fit(outputs_of(model, data), data), **lens.snapshot().to_record()}

    def measure() -> tuple[float, float]:
        with torch.no_grad():
            outputs = model(inputs)
        return 0.5 * squared_error(outputs, targets), accuracy(outputs, targets)

    batches = Batches(len(inputs), case.training.batch_size, job.seed_of("batches"))
    settings = case.training.early_stopping
    stopping = None if settings is None else EarlyStopping(settings, batches.per_epoch, measure)
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={"lens": lens},
        batches=batches,
        steps=case.training.epochs * batches.per_epoch,
        settings=case.lens,
        record=record,
        stopping=stopping,
    ).finish(job)
