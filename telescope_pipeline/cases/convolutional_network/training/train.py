"""A small convolutional network trained on cross-entropy, at every level of label noise."""

from __future__ import annotations

from torch.nn.functional import cross_entropy

from telescope_core.lens import TelescopeLens
from telescope_pipeline.cases.convolutional_network.schema import ConvolutionalNetworkCase
from telescope_pipeline.cases.convolutional_network.sweep import layer_column
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.convolutional import ConvolutionalNetwork
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import Row, class_accuracy, mean_cross_entropy
from telescope_pipeline.study.training.optimizers import optimizer_of

CLASSES = 10


def train(job: TrainingJob[ConvolutionalNetworkCase]) -> Trained:
    """Train one network and record losses, accuracies, kernel norms and degrees of freedom.

    Members that share a seed start from the same weights and see the same batches and probes.

    Returns:
        The recorded history and the final weights.
    """
    case, data = job.case, job.on_device()
    rows, channels, side = data["train_inputs"].shape[:3]
    model = ConvolutionalNetwork(
        channels, side, CLASSES, widths=case.model.widths, seed=job.seed_of("weights")
    ).to(job.device)
    optimizer = optimizer_of(case.training.optimizer, model)
    lens = attach_lens(
        model,
        optimizer,
        data,
        case.lens,
        loss=cross_entropy,
        kernel_norms=True,
        layer_shares=True,
        seed=job.seed_of("probes"),
    )

    def record() -> Row:
        # The lens evaluates in chunks, so that no set has to pass through the network at once.
        on_train, on_test = lens.predictions("train"), lens.predictions("test")
        return {
            "train/loss": mean_cross_entropy(on_train, data["train_targets"]),
            "test/loss": mean_cross_entropy(on_test, data["test_targets"]),
            "train/accuracy": class_accuracy(on_train, data["train_targets"]),
            "train/clean_accuracy": class_accuracy(on_train, data["train_clean_targets"]),
            "test/accuracy": class_accuracy(on_test, data["test_targets"]),
            **_columns(lens),
        }

    batches = Batches(rows, case.training.batch_size, job.seed_of("batches"))
    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={"lens": lens},
        batches=batches,
        steps=case.training.epochs * batches.per_epoch,
        settings=case.lens,
        record=record,
        loss=cross_entropy,
    ).finish(job)


def _columns(lens: TelescopeLens) -> Row:
    """The lens's record under names that a table takes, with layers behind an @."""
    row: Row = {}
    for key, value in lens.snapshot().to_record().items():
        _, _, layer = key.partition("/degrees_of_freedom/")
        if "/logit_sensitivity/" in key:
            continue
        # Kernel rows have not been measured before the first step; their means start at 0.
        unmeasured = lens.steps == 0 and "/kernel_norm" in key
        row[layer_column(layer) if layer else key] = 0.0 if unmeasured else value
    return row
