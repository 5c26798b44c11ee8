"""Networks of every depth, each watched by a lens of first and one of second order."""

from __future__ import annotations

from torch import Tensor

from telescope_pipeline.cases.depth.schema import DepthCase
from telescope_pipeline.cases.depth.sweep import ORDERS, error_column, lens_name
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.networks.deep import DeepNetwork
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import Row, fit
from telescope_pipeline.study.training.optimizers import optimizer_of


def train(job: TrainingJob[DepthCase]) -> Trained:
    """Train one network and record the telescoping errors of both orders on the same run.

    Members that share a seed see the same batches, whatever their depth.

    Returns:
        The recorded history and the final weights.
    """
    case, values, data = job.case, job.member.values, job.on_device()
    rows, features = data["train_inputs"].shape
    model = DeepNetwork(
        features,
        1,
        width=case.model.width,
        depth=int(values["depth"]),
        residual=values["architecture"] == "residual",
        activation=case.model.activation,
        seed=job.seed_of("weights"),
    ).to(job.device)
    optimizer = optimizer_of(case.training.optimizer, model)
    lenses = {
        order: attach_lens(
            model, optimizer, data, case.lens, order=order, probes=None, follow_train=False
        )
        for order in ORDERS
    }
    # Outputs and the lazy linearisation depend on the run alone: one lens tells, which spares the
    # other a pass at the initialisation.
    reference = lenses[ORDERS[0]]

    def record() -> Row:
        outputs = {"train": model(data["train_inputs"]), "test": reference.predictions("test")}
        lazy = reference.linearized("test")
        return {
            **fit(outputs, data),
            "test/linearization_error": _mean_gap(outputs["test"], lazy),
            **{
                error_column(order): _mean_gap(outputs["test"], lens.telescoped("test"))
                for order, lens in lenses.items()
            },
        }

    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={lens_name(order): lens for order, lens in lenses.items()},
        batches=Batches(rows, case.training.batch_size, job.seed_of("batches")),
        steps=case.training.steps,
        settings=case.lens,
        record=record,
    ).finish(job)


def _mean_gap(actual: Tensor, modelled: Tensor) -> float:
    """Mean absolute difference, accumulated in float64."""
    return float((actual - modelled).abs().cpu().double().mean())
