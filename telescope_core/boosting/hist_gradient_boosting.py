"""scikit-learn's HistGradientBoostingRegressor."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from telescope_core.boosting.trees import (
    DOUBLE,
    BoostedTrees,
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
        """The leaf each row falls into.

        The estimator has no ``apply``, so its own predictors are asked with the number of each
        node in the place of its value: categories and missing values take the way they take in
        ``predict``.

        Returns:
            Numbers of leaves among the nodes of their tree, shape ``(rounds, rows)``.
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
