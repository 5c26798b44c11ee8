"""The members, by setting, learning rate and seed, and the names of what is compared."""

from __future__ import annotations

from telescope_pipeline.cases.approximation_quality.schema import (
    ApproximationQualityCase,
    TrainingSetting,
)
from telescope_pipeline.contract import Member
from telescope_pipeline.schemas.sections import SGD
from telescope_pipeline.study.sweep import replicates

FILE_STEM = "shared"


def members(case: ApproximationQualityCase) -> list[Member]:
    """One member per setting, learning rate and seed; all train on one split."""
    return [
        member
        for setting in case.training.settings
        for rate in setting.learning_rates
        for member in replicates(
            group_name(setting.label, rate),
            case.seeds,
            {"setting": setting.label, "learning_rate": rate},
            data=lambda replicate: FILE_STEM,
        )
    ]


def group_name(setting: str, learning_rate: float) -> str:
    """Name of the members with this setting and learning rate, e.g. ``sgd-lr-0.01``."""
    return f"{setting}-lr-{float(learning_rate)!r}"


def lens_name(order: int, stride: int) -> str:
    """A lens in the name of a column: ``order2-stride10`` in ``test/accuracy@order2-stride10``."""
    return f"order{order}-stride{stride}"


def lens_label(order: int, stride: int) -> str:
    """A lens as a legend names it, e.g. ``2nd order, every 10 steps``."""
    ordinal = {1: "1st", 2: "2nd"}[order]
    return f"{ordinal} order, every {'step' if stride == 1 else f'{stride} steps'}"


def setting_label(setting: TrainingSetting) -> str:
    """A setting as a figure names it, e.g. ``SGD, momentum 0.9``."""
    if setting.name is not None:
        return setting.name
    optimizer = setting.optimizer
    words = [{"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[optimizer.name]]
    if isinstance(optimizer, SGD) and optimizer.momentum:
        words.append(f"momentum {optimizer.momentum:g}")
    if optimizer.weight_decay:
        words.append(f"λ = {optimizer.weight_decay:g}")
    if setting.output == "sigmoid":
        words.append("sigmoid output")
    return ", ".join(words)
