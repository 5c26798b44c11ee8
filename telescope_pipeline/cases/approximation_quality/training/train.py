"""One network per setting and learning rate, watched by several lenses side by side."""

from __future__ import annotations

from telescope_pipeline.cases.approximation_quality.schema import ApproximationQualityCase
from telescope_pipeline.cases.approximation_quality.sweep import lens_name
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.mlp import MLP, with_output
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import Row, accuracy, fit, outputs_of
from telescope_pipeline.study.training.optimizers import optimizer_of


def train(job: TrainingJob[ApproximationQualityCase]) -> Trained:
    """Train one member and record every lens's errors on test points of the same run.

    Members that share a seed start from the same weights and see the same batches, whatever their
    optimizer and output.

    Returns:
        The recorded history and the final weights.
    """
    case, values, data = job.case, job.member.values, job.on_device()
    rows, features = data["train_inputs"].shape
    (setting,) = (s for s in case.training.settings if s.label == values["setting"])
    network = MLP((features, *case.model.hidden, 1), seed=job.seed_of("weights"))
    model = with_output(network, setting.output).to(job.device)
    optimizer = optimizer_of(setting.optimizer, model, float(values["learning_rate"]))
    lenses = {
        lens_name(variant.order, variant.stride): attach_lens(
            model, optimizer, data, variant, probes=None, follow_train=False
        )
        for variant in case.lens.lenses
    }

    def record() -> Row:
        row, goal = fit(outputs_of(model, data), data), data["test_targets"]
        for position, (name, lens) in enumerate(lenses.items()):
            seen = lens.snapshot().to_record()
            if position == 0:
                # The lazy linearisation depends on the run alone, not on the lens.
                row["test/linearization_error"] = seen["test/linearization_error"]
                row["test/linearized_accuracy"] = accuracy(lens.linearized("test"), goal)
            row[f"test/approximation_error@{name}"] = seen["test/approximation_error"]
            row[f"test/accuracy@{name}"] = accuracy(lens.telescoped("test"), goal)
        return row

    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses=lenses,
        batches=Batches(rows, case.training.batch_size, job.seed_of("batches")),
        steps=case.training.steps,
        settings=case.lens,
        record=record,
    ).finish(job)
