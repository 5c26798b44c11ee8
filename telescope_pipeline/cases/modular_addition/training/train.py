"""A transformer trained by cross-entropy with weight decay, watched by one lens."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from telescope_pipeline.cases.modular_addition.schema import ModularAdditionCase
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.transformer import Transformer
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import (
    Row,
    class_accuracy,
    mean_cross_entropy,
    outputs_of,
)
from telescope_pipeline.study.training.optimizers import optimizer_of, warmed_up_rate

# The two summands and the equals sign.
_LENGTH = 3


def train(job: TrainingJob[ModularAdditionCase]) -> Trained:
    """Train one member and record losses, accuracies and degrees of freedom.

    Labels of the smoother are the one-hot rows of the classes (docs/mathematics.md, section 4).

    Returns:
        The recorded history and the final weights.
    """
    case, data = job.case, job.on_device()
    rows, modulus = len(data["train_inputs"]), case.data.modulus
    model = Transformer(
        modulus + 1, _LENGTH, modulus, **case.model.model_dump(), seed=job.seed_of("weights")
    ).to(job.device)
    training = case.training
    optimizer = optimizer_of(training.optimizer, model)
    lens = attach_lens(
        model,
        optimizer,
        data,
        case.lens,
        loss=cross_entropy,
        seed=job.seed_of("probes"),
        # With p outputs and few columns, linearising costs more than the products with J; this
        # strategy linearises once a block instead of twice.
        strategy="parameter-space",
    )

    def record() -> Row:
        row: Row = {}
        for name, logits in outputs_of(model, data).items():
            classes = data[f"{name}_targets"]
            row[f"{name}/cross_entropy"] = mean_cross_entropy(logits, classes)
            row[f"{name}/accuracy"] = class_accuracy(logits, classes)
        on_test = {"telescoped": lens.telescoped("test"), "linearized": lens.linearized("test")}
        for name, logits in on_test.items():
            row[f"test/{name}_accuracy"] = class_accuracy(logits, data["test_targets"])
        return {**row, **lens.snapshot().to_record()}

    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={"lens": lens},
        batches=Batches(rows, training.batch_size or rows, job.seed_of("batches")),
        steps=training.steps,
        settings=case.lens,
        record=record,
        loss=cross_entropy,
        rate=lambda step: warmed_up_rate(training.optimizer.learning_rate, step, training.warm_up),
    ).finish(job)
