"""The user's network in the project's training loop, with the lens attached."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from telescope_core.errors import ConfigurationError
from telescope_core.lens import TelescopeLens
from telescope_core.losses import Loss
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.cases.own_model.sweep import set_names
from telescope_pipeline.cases.own_model.training.build import build_model, make_optimizer
from telescope_pipeline.cases.own_model.training.losses import accuracy_of, loss_of
from telescope_pipeline.contract import Trained, TrainingJob
from telescope_pipeline.study.training.loop import Batches, TrainingRun, attach_lens
from telescope_pipeline.study.training.measures import Row
from telescope_pipeline.study.user_calls import attributed, number, user_seed


def train(job: TrainingJob[OwnModelCase]) -> Trained:
    """Train one member and record losses, metrics and what the lens sees.

    Members that share a seed get the same seed for weights, batches and probes.

    Returns:
        The recorded history and the final weights.

    Raises:
        ParametersError: A function of the user's fails or returns something else.
        ConfigurationError: Batches or sets do not suit the data.
        TelescopeError: What the lens refuses.
    """
    case = job.case.narrowed(job.member.values, job.member.seed)
    with attributed(case.references("train")):
        return _train(job, case)


def _train(job: TrainingJob[OwnModelCase], case: OwnModelCase) -> Trained:
    data = job.on_device()
    rows = len(data["train_inputs"])
    sets = {name: data[f"{name}_inputs"] for name in _followed(case, data)}
    size = _batch_size(case, rows)
    model = build_model(case, user_seed(job.seed_of("weights"))).to(job.device)
    optimizer = make_optimizer(case, model)
    loss = loss_of(case.loss)
    probes = job.seed_of("probes")
    lens = attach_lens(model, optimizer, data, case.lens, eval_sets=sets, loss=loss, seed=probes)

    def record() -> Row:
        return {**_fit(case, model, loss, data), **_seen(lens)}

    return TrainingRun(
        model=model,
        optimizer=optimizer,
        data=data,
        lenses={"lens": lens},
        batches=Batches(rows, size if size < rows else None, job.seed_of("batches")),
        steps=case.training.steps,
        settings=case.lens,
        record=record,
        loss=loss,
    ).finish(job)


def _followed(case: OwnModelCase, data: dict[str, Tensor]) -> list[str]:
    there = [name for name in set_names(data) if name != "train"]
    asked = there if case.lens.sets is None else case.lens.sets
    unknown = [name for name in asked if name not in there]
    if unknown:
        raise ConfigurationError(
            f"lens.sets: got {unknown[0]!r}; expected some of {', '.join(there)}, which is what "
            f"{case.data.call} gives besides the training set"
        )
    return list(asked)


def _batch_size(case: OwnModelCase, rows: int) -> int:
    size = case.training.batch_size
    if size is not None and size > rows:
        raise ConfigurationError(
            f"training.batch_size: got {size}; expected at most the {rows} rows of train_inputs, "
            "or null for all of them"
        )
    return rows if size is None else size


def _fit(case: OwnModelCase, model: nn.Module, loss: Loss, data: dict[str, Tensor]) -> Row:
    """Loss, accuracy and the user's metrics on every set that has targets."""
    row: Row = {}
    accuracy = accuracy_of(case.loss)
    for name in set_names(data):
        targets = data.get(f"{name}_targets")
        if targets is None:
            continue
        outputs = torch.cat(list(_outputs(model, data[f"{name}_inputs"], case.lens.chunk_size)))
        row[f"{name}/loss"] = float(loss(outputs, targets))
        if accuracy is not None:
            row[f"{name}/accuracy"] = accuracy(outputs, targets)
        for metric, reference in case.training.metrics.items():
            leaf = f"training.metrics.{metric}"
            row[f"{name}/{metric}"] = number(leaf, reference, outputs, targets)
    return row


def _outputs(model: nn.Module, inputs: Tensor, chunk_size: int | None) -> Iterator[Tensor]:
    size = chunk_size or len(inputs)
    for start in range(0, len(inputs), size):
        yield model(inputs[start : start + size])


def _seen(lens: TelescopeLens) -> Row:
    # Kernel rows have not been measured before the first step; their means start at 0.
    return {
        key: 0.0 if lens.steps == 0 and "/kernel_norm" in key else value
        for key, value in lens.snapshot().to_record().items()
    }
