"""Which reader of trees belongs to which estimator."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from telescope_core.boosting.trees import BoostedTrees
from telescope_core.errors import ConfigurationError, MissingDependencyError

_READERS: Final = {
    ("sklearn", "GradientBoostingRegressor"): ("gradient_boosting", "GradientBoostingTrees"),
    ("sklearn", "HistGradientBoostingRegressor"): (
        "hist_gradient_boosting",
        "HistGradientBoostingTrees",
    ),
    ("xgboost", "XGBRegressor"): ("xgboost_trees", "XGBoostTrees"),
    ("lightgbm", "LGBMRegressor"): ("lightgbm_trees", "LightGBMTrees"),
}
_OLDEST: Final = {"xgboost": 2, "lightgbm": 4}


def read_trees(model: Any) -> BoostedTrees:
    """The trees of a fitted estimator.

    Args:
        model: A fitted regressor of a library known here, or of a class derived from one.

    Returns:
        The trees behind one interface, whatever the library.

    Raises:
        ConfigurationError: The estimator is of no known type or is not fitted.
        MissingDependencyError: Its library is absent or too old.
    """
    for kind in type(model).__mro__:
        library = kind.__module__.partition(".")[0]
        if (library, kind.__name__) in _READERS:
            _require_library(library)
            _require_fitted(model)
            module, reader = _READERS[library, kind.__name__]
            trees: BoostedTrees = getattr(import_module(f"{__package__}.{module}"), reader)(model)
            return trees
    known = ", ".join(name for _, name in _READERS)
    raise ConfigurationError(
        f"model is a {type(model).__name__}; give a fitted {known} (of a pipeline, its last step "
        "and the inputs that step was fitted to)"
    )


def _require_library(library: str) -> None:
    oldest = _OLDEST.get(library, 0)
    advice = f"install {library}>={oldest} (pip install 'telescope-lens[boosting]')"
    try:
        version = str(import_module(library).__version__)
    except ImportError as error:
        raise MissingDependencyError(f"{library} cannot be imported: {advice}") from error
    if int(version.partition(".")[0]) < oldest:
        raise MissingDependencyError(f"{library} {version} is too old: {advice}")


def _require_fitted(model: Any) -> None:
    validation = import_module("sklearn.utils.validation")
    try:
        validation.check_is_fitted(model)
    except import_module("sklearn.exceptions").NotFittedError as error:
        raise ConfigurationError(
            f"{type(model).__name__} is not fitted; call fit before attaching a BoostingLens"
        ) from error
