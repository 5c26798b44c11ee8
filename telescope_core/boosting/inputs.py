"""Checks of what a BoostingLens is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from telescope_core.boosting.trees import Floats
from telescope_core.errors import ConfigurationError, ShapeError

TRAIN: Final = "train"


def named_sets(X_train: Any, eval_sets: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sets of inputs by name, the training set first."""
    sets = {TRAIN: X_train}
    for name, inputs in (eval_sets or {}).items():
        if not isinstance(name, str) or not name or "/" in name or name == TRAIN:
            raise ConfigurationError(
                f"eval_sets has the name {name!r}; use non-empty strings without '/' other than "
                f"{TRAIN!r}, which is the set trained on"
            )
        sets[name] = inputs
    return sets


def check_inputs(name: str, X: Any, features: int, *, accepts_missing: bool) -> Any:
    """Inputs a model can be asked about; lists become arrays, tables stay what they are."""
    X = X if hasattr(X, "shape") else np.asarray(X)
    if hasattr(X, "toarray"):
        raise ConfigurationError(
            f"the inputs of {name!r} are a sparse {type(X).__name__}; give them dense (toarray())"
        )
    if len(X.shape) != 2 or X.shape[1] != features or X.shape[0] == 0:
        raise ShapeError(
            f"the inputs of {name!r} have shape {tuple(X.shape)}; the model was fitted to "
            f"(rows, {features}): give at least one row with the columns it was fitted to"
        )
    if not accepts_missing and not np.isfinite(np.asarray(X, dtype=np.float64)).all():
        raise ConfigurationError(
            f"the inputs of {name!r} contain NaN or infinite values, which this model does not "
            "accept; give finite inputs, prepared as they were for fit"
        )
    return X


def check_column(name: str, values: Any, rows: int) -> Floats:
    """Labels or weights, one finite number for each training row."""
    column = np.asarray(values, dtype=np.float64)
    if column.shape not in ((rows,), (rows, 1)):
        raise ShapeError(
            f"{name} has shape {column.shape}; expected one number for each of the {rows} rows of "
            f"X_train, shape ({rows},)"
        )
    if not np.isfinite(column).all():
        raise ConfigurationError(
            f"{name} contains NaN or infinite values; give the finite ones the model was fitted to"
        )
    return column.reshape(rows)


def check_weights(sample_weight: Any, rows: int) -> Floats:
    """The weights of the training rows, all one unless given."""
    if sample_weight is None:
        return np.ones(rows)
    weights = check_column("sample_weight", sample_weight, rows)
    if (weights < 0).any() or weights.sum() == 0:
        raise ConfigurationError(
            f"sample_weight has minimum {weights.min():g} and sum {weights.sum():g}; weights must "
            "not be negative and not all zero: give those the model was fitted with"
        )
    return weights
