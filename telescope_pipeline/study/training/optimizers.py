"""Torch optimizers from their validated settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from telescope_pipeline.schemas.sections import SGD, Adam, AdamW, OptimizerWithRate

_OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def warmed_up_rate(rate: float, step: int, warm_up: int) -> float:
    """Learning rate of update number ``step`` (from 0): a line up to ``rate``, then constant."""
    return rate * min(1.0, (step + 1) / warm_up) if warm_up else rate


def optimizer_of(
    settings: SGD | Adam | AdamW | OptimizerWithRate,
    model: nn.Module,
    learning_rate: float | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer of a network from its validated settings.

    Args:
        settings: The optimizer's section.
        model: What it trains.
        learning_rate: The rate, for settings that have none of their own.

    Returns:
        The optimizer.
    """
    options = settings.model_dump(exclude={"name"})
    rate = float(options.pop("learning_rate") if learning_rate is None else learning_rate)
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    optimizer: torch.optim.Optimizer = _OPTIMIZERS[settings.name](
        model.parameters(), lr=rate, **values
    )
    return optimizer
