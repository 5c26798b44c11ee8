"""What the smoother needs to know of a fitted boosting model, whatever library it comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from telescope_core.errors import ConfigurationError

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

# Rounding of a sum in double precision, and of one number in single precision.
DOUBLE: Final = 1e-12
SINGLE: Final = 2.0**-24
# What predictions may be off by beyond rounding, in units of the range of the labels.
_TOLERANCE: Final = 1e-6


class BoostedTrees(ABC):
    """One tree a round, fitted to the residuals of the squared error.

    Attributes:
        rounds: Rounds that ``predict`` uses.
        learning_rate: γ, by which every tree is multiplied.
        leaf_regularization: λ, added to the weight of a leaf's training rows.
        offset: The constant initial prediction; None stands for the mean of the labels.  Final
            only after ``settle_start``.
        rounding: Rounding error of predictions, relative to the largest of them.
        accepts_missing: Whether the trees know what to do with NaN.
    """

    rounds: int
    learning_rate: float
    leaf_regularization: float
    offset: float | None
    rounding: float
    accepts_missing: bool
    _model: Any

    def settle_start(self, y: Floats, weights: Floats) -> None:  # noqa: B027
        """Decide the initial prediction where it takes the labels to tell.

        A constant that equals the mean of the labels predicts what the mean predicts, yet no label
        moves it, so that ``S·y + c = predict`` holds for either: where the two are equal, what the
        fitted model has written down decides.

        Args:
            y: Labels of the training rows, shape ``(n,)``.
            weights: Their weights, shape ``(n,)``.

        Raises:
            ConfigurationError: The two are equal and the model does not tell which it is.
        """

    def allowed_gap(self, y: Floats, size: float) -> float:
        """The largest difference of two predictions that rounding explains.

        Args:
            y: Labels of the training rows.
            size: The largest absolute value among what is compared.

        Returns:
            The difference, in units of the labels.
        """
        return float(_TOLERANCE * np.ptp(y) + self.rounding * size)

    def equals_mean(self, start: float, y: Floats, weights: Floats) -> bool:
        """Whether predictions cannot tell a start from the (weighted) mean of the labels."""
        size = max(np.abs(y).max(), abs(start))
        gap = abs(start - float(np.average(y, weights=weights)))
        return gap <= self.allowed_gap(y, size)

    @abstractmethod
    def leaves(self, X: Any) -> Integers:
        """The leaf each row falls into, shape ``(rounds, rows)``."""

    def staged_predictions(self, X: Any) -> Iterator[Floats]:
        """The model's own predictions after 1, 2, … rounds, each of shape ``(rows,)``."""
        for predictions in self._model.staged_predict(X):
            yield np.array(predictions, dtype=np.float64)

    def predictions(self, X: Any) -> Floats:
        """The model's ``predict``, shape ``(rows,)``."""
        return np.asarray(self._model.predict(X), dtype=np.float64)


def fitted_loss(model: Any) -> str:
    """The loss an estimator of scikit-learn was fitted with, whatever its ``loss`` is now."""
    name = type(model._loss).__name__
    return "squared_error" if name == "HalfSquaredError" else name


def require(model: Any, options: Mapping[str, tuple[Any, Any]]) -> None:
    """Refuse a model with an option under which a tree is no average of residuals.

    Args:
        model: The fitted estimator, named in the message.
        options: For each option the value found and the one value that can be followed.

    Raises:
        ConfigurationError: An option has another value.
    """
    for name, (found, expected) in options.items():
        if found != expected:
            raise ConfigurationError(
                f"{type(model).__name__} has {name}={found!r}; its smoother is known "
                f"only for {name}={expected!r}: fit the model with that"
            )
