"""Attaching a lens, or whatever takes the same arguments, to a training run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def attached(kind: Callable[..., Any], run: Any, **options: Any) -> Any:
    """An observer over a run's model, optimizer, loss, training set and further sets."""
    return kind(
        run.model,
        run.optimizer,
        run.loss,
        run.train_inputs,
        run.train_targets,
        run.eval_sets,
        **options,
    )
