"""scikit-learn's GradientBoostingRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np

from telescope_core.boosting.trees import (
    DOUBLE,
    BoostedTrees,
    Integers,
    fitted_loss,
    require,
)
from telescope_core.errors import ConfigurationError


class GradientBoostingTrees(BoostedTrees):
    """Leaves are plain means of residuals; the start is the mean, a constant or zero."""

    leaf_regularization = 0.0
    rounding = DOUBLE
    accepts_missing = False

    def __init__(self, model: Any) -> None:
        require(model, {"loss": (fitted_loss(model), "squared_error")})
        # Only a fit to part of the rows leaves behind how well it does on the others.
        subsampled = hasattr(model, "oob_improvement_")
        require(model, {"subsample": (float(model.subsample) if subsampled else 1.0, 1.0)})
        self._model = model
        self.rounds = int(model.n_estimators_)
        self.learning_rate = float(model.learning_rate)
        self.offset = _start(model)

    def leaves(self, X: Any) -> Integers:
        """The leaf each row falls into, shape ``(rounds, rows)``."""
        # The trees inside were fitted without the names of the columns and warn when given them.
        return np.asarray(self._model.apply(np.asarray(X))).astype(np.intp).T


def _start(model: Any) -> float | None:
    """The constant initial prediction, or None for the mean."""
    if isinstance(model.init_, str):
        return 0.0
    strategy = getattr(model.init_, "strategy", None)
    if type(model.init_).__name__ != "DummyRegressor" or strategy not in ("mean", "constant"):
        raise ConfigurationError(
            f"GradientBoostingRegressor was fitted with init={model.init!r}; the smoother is known "
            "for init=None, init='zero' and a DummyRegressor of the mean or of a constant: fit "
            "the model with one of those"
        )
    if strategy == "mean":
        return None
    constant = float(np.ravel(model.init_.constant_)[0])
    # `init` is the caller's own object, whose options may have been set since.
    if np.ravel(model.init_.constant)[0] != constant:
        raise ConfigurationError(
            f"init is {model.init_!r}, but was fitted to the constant {constant:g}: its options "
            "were changed after the model was fitted; fit the model again"
        )
    return constant
