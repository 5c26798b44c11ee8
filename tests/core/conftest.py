"""Shared by the tests of the library: lenses and oracles on the runs of the model zoo."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
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


@pytest.fixture(scope="session")
def run_reader() -> Callable[[Path], Any]:
    """Reads the run file of Weights & Biases in a folder."""
    path = Path(__file__).resolve().parent.parent / "publish" / "wandb_reader.py"
    spec = importlib.util.spec_from_file_location("core_wandb_reader", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.read_run
