"""Shared by the tests of the library: lenses and oracles on the runs of the model zoo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from telescope_core.lens import TelescopeLens
from telescope_core.testing import DenseOracle, Training


def _attach(kind: Callable[..., Any], training: Training, options: dict[str, Any]) -> Any:
    return kind(
        training.model,
        training.optimizer,
        training.loss,
        training.train_inputs,
        training.train_targets,
        training.eval_sets,
        **options,
    )


@pytest.fixture
def lens_of() -> Callable[..., TelescopeLens]:
    """``lens_of(training, **options)`` attaches a lens, by default with the exact smoother."""
    return lambda training, **options: _attach(
        TelescopeLens, training, {"probes": "exact", **options}
    )


@pytest.fixture
def oracle_of() -> Callable[..., DenseOracle]:
    """``oracle_of(training, kind=DenseOracle, **options)`` attaches an oracle."""
    return lambda training, kind=DenseOracle, **options: _attach(kind, training, options)
