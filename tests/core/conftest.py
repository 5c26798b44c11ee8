"""Shared by the tests of the library: lenses and oracles on the runs of the model zoo."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.runs import attached
from telescope_core.lens import TelescopeLens
from telescope_core.testing import DenseOracle


@pytest.fixture
def lens_of() -> Callable[..., TelescopeLens]:
    """``lens_of(training, **options)`` attaches a lens, by default with the exact smoother."""
    return lambda training, **options: attached(
        TelescopeLens, training, **{"probes": "exact", **options}
    )


@pytest.fixture
def oracle_of() -> Callable[..., DenseOracle]:
    """``oracle_of(training, kind=DenseOracle, **options)`` attaches an oracle."""
    return lambda training, kind=DenseOracle, **options: attached(kind, training, **options)
