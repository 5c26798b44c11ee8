"""A plain float64 account of the telescoping model, to check the fast one against.

* :mod:`~telescope_core.testing.oracle` keeps every matrix dense and every step explicit.
* :mod:`~telescope_core.testing.frozen_kernel` is its variant for the function-space engine.
* :mod:`~telescope_core.testing.account` derives the same a second time, from single rows and the
  real optimizer (:mod:`~telescope_core.testing.columns`).
* :mod:`~telescope_core.testing.means` gives degrees of freedom and hat form of classifiers.
* :mod:`~telescope_core.testing.replay` checks the oracle itself by finite differences.
* :mod:`~telescope_core.testing.replayed` follows training as it is run, by differences of passes.
* :mod:`~telescope_core.testing.models` is the zoo of small models.
* :mod:`~telescope_core.testing.scenario` trains them, with losses and optimizers by name.
* :mod:`~telescope_core.testing.registry` crosses the zoo with rules, losses and readings.
* :mod:`~telescope_core.testing.comparison` compares two arrays and says what is wrong.

Nothing here is meant to be fast: memory is quadratic in the number of training labels.
"""

from telescope_core.testing.account import RowAccount
from telescope_core.testing.columns import ShadowColumns
from telescope_core.testing.comparison import assert_agrees
from telescope_core.testing.frozen_kernel import FrozenKernelOracle
from telescope_core.testing.midpoint import MidpointOracle
from telescope_core.testing.models import SPECIMENS, ZOO, ZooModel
from telescope_core.testing.oracle import DenseOracle
from telescope_core.testing.recipes import LOSSES, OPTIMIZERS
from telescope_core.testing.replay import sensitivity_by_replay
from telescope_core.testing.replayed import ReplayedOracle
from telescope_core.testing.scenario import Scenario, Training

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SPECIMENS",
    "ZOO",
    "DenseOracle",
    "FrozenKernelOracle",
    "MidpointOracle",
    "ReplayedOracle",
    "RowAccount",
    "Scenario",
    "ShadowColumns",
    "Training",
    "ZooModel",
    "assert_agrees",
    "sensitivity_by_replay",
]
