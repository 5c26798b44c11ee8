"""scikit-learn's HistGradientBoostingRegressor."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import numpy as np

from telescope_core.boosting.trees import (
    DOUBLE,
    BoostedTrees,
    Floats,
    Integers,
    fitted_loss,
    require,
)


class HistGradientBoostingTrees(BoostedTrees):
    """Leaves are means of residuals shrunk by ``l2_regularization``; the start is the mean."""

    offset = None
    rounding = DOUBLE
    accepts_missing = True

    def __init__(self, model: Any) -> None:
        require(model, {"loss": (fitted_loss(model), "squared_error")})
        self._model = model
        self.rounds = int(model.n_iter_)
        self.learning_rate = float(model.learning_rate)
        self.leaf_regularization = float(model.l2_regularization)

    def leaves(self, X: Any) -> Integers:
        """The leaf each row falls into, shape ``(rounds, rows)``.

        The estimator has no ``apply``, so its own predictors are asked with the number of each
        node in the place of its value: categories and missing values take the way they take in
        ``predict``.
        """
        # What _raw_predict does before it asks the predictors.
        prepared = self._model._preprocess_X(X, reset=False)
        categories, features = self._model._bin_mapper.make_known_categories_bitsets()
        leaves = []
        for (predictor,) in self._model._predictors:
            numbered = copy(predictor)
            numbered.nodes = predictor.nodes.copy()
            numbered.nodes["value"] = np.arange(len(numbered.nodes))
            leaves.append(numbered.predict(prepared, categories, features, 1).astype(np.intp))
        return np.stack(leaves)

    def staged_predictions(self, X: Any) -> Iterator[Floats]:
        """The model's own predictions after 1, 2, … rounds."""
        for predictions in self._model.staged_predict(X):
            yield np.array(predictions, dtype=np.float64)

    def predictions(self, X: Any) -> Floats:
        """The model's ``predict``, shape ``(rows,)``."""
        return np.asarray(self._model.predict(X), dtype=np.float64)
