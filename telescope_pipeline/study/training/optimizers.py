"""Torch optimizers from their validated settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from telescope_core.errors import ConfigurationError
from telescope_pipeline.schemas.sections import SGD, Adam, AdamW, OptimizerWithRate

_OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter], learning_rate: float, options: dict[str, Any]
) -> torch.optim.Optimizer:
    """Build an optimizer.

    Args:
        name: ``sgd``, ``adam`` or ``adamw``.
        parameters: What it trains.
        learning_rate: Its learning rate.
        options: Further options by torch's names, e.g. ``{"momentum": 0.95}``.

    Returns:
        The optimizer.

    Raises:
        ConfigurationError: The name is unknown.
    """
    if name not in _OPTIMIZERS:
        raise ConfigurationError(
            f"unknown optimizer {name!r}, expected one of {', '.join(_OPTIMIZERS)}"
        )
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    optimizer: torch.optim.Optimizer = _OPTIMIZERS[name](parameters, lr=learning_rate, **values)
    return optimizer


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
    return build_optimizer(settings.name, model.parameters(), rate, options)
