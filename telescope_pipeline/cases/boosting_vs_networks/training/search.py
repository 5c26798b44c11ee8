"""Random search over hyperparameters, by the error on a validation set."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from scipy.stats import lognorm, loguniform
from sklearn.model_selection import ParameterSampler
from torch import Tensor

from telescope_core.errors import NonFiniteError
from telescope_pipeline.cases.boosting_vs_networks.schema import NetworkSearch, TreesSearch
from telescope_pipeline.contract import Checkpoint

Setting = dict[str, Any]


def network_settings(search: NetworkSearch, draws: int, seed: int) -> list[Setting]:
    """Draw the ``learning_rate`` of so many networks; more draws begin with the same ones."""
    low, high = search.learning_rates
    return _draw({"learning_rate": loguniform(low, high)}, draws, seed)


def trees_settings(search: TreesSearch, draws: int, seed: int) -> list[Setting]:
    """Draw ``learning_rate``, ``n_estimators`` and ``max_depth`` of so many boosted trees.

    Returns:
        A setting per draw; more draws begin with the same ones.
    """
    rate = lognorm(s=math.log(search.learning_rate_spread), scale=search.median_learning_rate)
    space = {
        "learning_rate": rate,
        "n_estimators": loguniform(*search.estimators),
        "max_depth": search.depths,
    }
    return [
        setting | {"n_estimators": round(setting["n_estimators"])}
        for setting in _draw(space, draws, seed)
    ]


def _draw(space: dict[str, Any], draws: int, seed: int) -> list[Setting]:
    # numpy's legacy generator, which scikit-learn draws with, takes 32 bits.
    sampler = ParameterSampler(space, n_iter=draws, random_state=seed % 2**32)
    return [
        {name: float(v) if isinstance(v, float) else v for name, v in setting.items()}
        for setting in sampler
    ]


def best_draw(
    settings: list[Setting],
    error_of: Callable[[int, Setting], float],
    checkpoint: SearchCheckpoint,
) -> int:
    """Try all settings and choose the one of the smallest validation error.

    Args:
        settings: What to try.
        error_of: Fits a model to the training set and returns its validation error; is told the
            number of the draw.
        checkpoint: Remembers the errors of finished draws.

    Returns:
        The number of the best draw, the first of equals.

    Raises:
        NonFiniteError: No setting gave a finite error.
    """
    errors = checkpoint.errors
    for draw in range(len(errors), len(settings)):
        try:
            error = error_of(draw, settings[draw])
        except NonFiniteError:
            error = math.inf
        # A setting that diverges loses the search, it does not end it.
        checkpoint.remember(error if math.isfinite(error) else None)
    finite = [(error, draw) for draw, error in enumerate(errors) if error is not None]
    if not finite:
        raise NonFiniteError(
            f"none of {len(settings)} draws ended with a finite validation error; expected at "
            "least one: lower the learning rates or raise the number of draws"
        )
    return min(finite)[1]


class SearchCheckpoint:
    """A member's checkpoint that also remembers the errors of finished draws.

    Training after the search uses it like any other checkpoint.

    Args:
        checkpoint: Where to keep everything.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        stored = checkpoint.load()
        self._training: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.errors: list[float | None] = []
        if stored is not None:
            tensors, state = stored
            self.errors = list(state["search"])
            if state["training"] is not None:
                self._training = tensors, state["training"]

    def remember(self, error: float | None) -> None:
        """Keep the error of the next draw; ``None`` stands for one that is not finite."""
        self.errors.append(error)
        self._checkpoint.save({}, {"search": self.errors, "training": None})

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of the training after the search, if it has begun."""
        return self._training

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the state of the training after the search."""
        self._checkpoint.save(tensors, {"search": self.errors, "training": state})
