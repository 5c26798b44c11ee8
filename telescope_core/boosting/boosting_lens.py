"""The lens on a fitted boosting model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from telescope_core.boosting.inputs import (
    TRAIN,
    check_column,
    check_inputs,
    check_weights,
    named_sets,
)
from telescope_core.boosting.recursion import SmootherState
from telescope_core.boosting.registry import read_trees
from telescope_core.boosting.trees import Floats, Integers
from telescope_core.errors import ConfigurationError


class BoostingLens:
    """How each prediction of boosted trees depends on the training labels, at every round.

    With the structure of the trees held fixed, predictions are ``S·y + c`` (docs/mathematics.md,
    section 9; arXiv 2411.00247; Curth et al. 2023, "A U-turn on double descent").  S is exact; its
    memory is that of one float64 matrix of ``rows × n`` for each set.

    Example:
        >>> lens = BoostingLens(model, X_train, y_train, {"test": X_test})  # doctest: +SKIP
        >>> for record in lens.records():  # doctest: +SKIP
        ...     print(record["step"], record["test/effective_parameters"])
    """

    def __init__(
        self,
        model: Any,
        X_train: Any,
        y_train: Any,
        eval_sets: Mapping[str, Any] | None = None,
        *,
        sample_weight: Any = None,
    ) -> None:
        """Follow a fitted model and prove that ``S·y + c`` is what it predicts.

        Args:
            model: Fitted GradientBoostingRegressor, HistGradientBoostingRegressor, XGBRegressor or
                LGBMRegressor of the squared error, without subsampling of rows and without initial
                scores of rows (``init_score``, ``base_margin``).  What its trees start from is read
                off the fitted model: the mean where the library estimated it, a constant where a
                number was given, be it the mean.
            X_train: The very rows the trees were fitted to, shape ``(n, features)``.
            y_train: Their labels, shape ``(n,)``.
            eval_sets: More named inputs; labels are not needed.
            sample_weight: The weights given to ``fit``, if any.

        Raises:
            ConfigurationError: The model cannot be followed or does not take the inputs, or at some
                round ``S·y + c`` is not what it predicts: off by more than 1e-6 of the range of the
                labels and the rounding of the library (1e-6 of the predictions for XGBoost, which
                sums trees in single precision, and from 17 rounds on 2⁻²⁴ a round).
            ShapeError: Inputs, labels or weights have the wrong shape.
            MissingDependencyError: The library of the model is absent or too old.
        """
        self._trees = read_trees(model)
        self._model_name = type(model).__name__
        features = int(model.n_features_in_)
        missing = self._trees.accepts_missing
        sets = {
            name: check_inputs(name, X, features, accepts_missing=missing)
            for name, X in named_sets(X_train, eval_sets).items()
        }
        self._rows = {name: int(X.shape[0]) for name, X in sets.items()}
        self._y = check_column("y_train", y_train, self._rows[TRAIN])
        self._weights = check_weights(sample_weight, self._rows[TRAIN])
        self._leaves = {name: self._leaves_of(name, X) for name, X in sets.items()}
        self._trees.settle_start(self._y, self._weights)
        self._state = self._start()
        self._records = list(self._follow(sets))

    @property
    def rounds(self) -> int:
        """Rounds of boosting that the model's ``predict`` uses."""
        return self._trees.rounds

    def records(self) -> Iterator[dict[str, float]]:
        """One flat dict for each round, with the keys of a ``TelescopeLens`` record.

        Yields:
            ``step`` (the round, from 1), ``train/degrees_of_freedom`` and for each set s
            ``s/smoother_error`` (mean |f − (S·y + c)|), ``s/effective_parameters`` with
            ``s/effective_parameters_stderr`` (0: exact), ``s/kernel_norm_mean`` and
            ``s/kernel_norm_max``.
        """
        for record in self._records:
            yield dict(record)

    def smoother(self, name: str, round: int | None = None) -> Floats:
        """S on a set after a round (the last unless given, 0 before the first), ``(rows, n)``."""
        return self._at(name, round).S[name].copy()

    def constant(self, name: str, round: int | None = None) -> Floats:
        """The part c of the predictions that no label moves, shape ``(rows,)``."""
        return self._at(name, round).c[name].copy()

    def effective_parameters(self, name: str, round: int | None = None) -> float:
        r"""Effective parameters :math:`\frac{n}{|I|} \sum_{j∈I} \|s(x_j)\|^2` on a set.

        Args:
            name: ``"train"`` or a name among ``eval_sets``.
            round: Round, from 0 (the initial prediction) to the last (the default).

        Returns:
            Their number: 1 where every prediction is the mean of y, n where each copies one label.
        """
        if round is None or round == 0:
            return _effective_parameters(self._at(name, round).S[name])
        self._check(name, round)
        return self._records[round - 1][f"{name}/effective_parameters"]

    def _leaves_of(self, name: str, X: Any) -> Integers:
        try:
            return self._trees.leaves(X)
        except Exception as error:
            # Each library has its own types for columns that it does not know or cannot read.
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(
                f"{self._model_name} does not take the inputs of {name!r}: {reason}; give the "
                "columns that it was fitted to, named, ordered and prepared as they were for fit"
            ) from error

    def _start(self) -> SmootherState:
        return SmootherState.initial(self._trees, self._weights, self._rows)

    def _check(self, name: str, round: int | None) -> None:
        if name not in self._rows:
            raise ConfigurationError(f"no set is named {name!r}; use one of {list(self._rows)}")
        whole = isinstance(round, int | np.integer) and not isinstance(round, bool)
        if round is not None and not (whole and 0 <= round <= self.rounds):
            raise ConfigurationError(
                f"round is {round!r}; expected a whole number from 0 to {self.rounds}, the rounds "
                "of the model"
            )

    def _at(self, name: str, round: int | None) -> SmootherState:
        """The state after a round: the last one seen, moved on or made anew."""
        self._check(name, round)
        target = self.rounds if round is None else int(round)
        if target < self._state.round:
            self._state = self._start()
        while self._state.round < target:
            self._state.advance(self._trees, self._weights, self._leaves, TRAIN)
        return self._state

    def _follow(self, sets: Mapping[str, Any]) -> Iterator[dict[str, float]]:
        """Go through all rounds beside the model's own predictions."""
        staged = {name: self._trees.staged_predictions(X) for name, X in sets.items()}
        for round in range(1, self.rounds + 1):
            f = {name: next(predictions) for name, predictions in staged.items()}
            yield self._measure(self._at(TRAIN, round), f)
        last = self._at(TRAIN, self.rounds)
        for name, X in sets.items():
            self._compare(name, last, self._trees.predictions(X))

    def _measure(self, state: SmootherState, f: Mapping[str, Floats]) -> dict[str, float]:
        record: dict[str, float] = {"step": state.round}
        for name, predictions in f.items():
            gaps = self._compare(name, state, predictions)
            record[f"{name}/smoother_error"] = float(gaps.mean())
            record[f"{name}/effective_parameters"] = _effective_parameters(state.S[name])
            record[f"{name}/effective_parameters_stderr"] = 0.0
            record[f"{name}/kernel_norm_mean"] = float(state.kernel_norms[name].mean())
            record[f"{name}/kernel_norm_max"] = float(state.kernel_norms[name].max())
        record[f"{TRAIN}/degrees_of_freedom"] = float(np.trace(state.S[TRAIN]))
        return record

    def _compare(self, name: str, state: SmootherState, f: Floats) -> Floats:
        """``|f − (S·y + c)|`` of each row, refused when it is more than rounding."""
        gaps = np.abs(f - (state.S[name] @ self._y + state.c[name]))
        size = max(np.abs(f).max(), np.abs(self._y).max(), np.abs(state.c[name]).max())
        allowed = self._trees.allowed_gap(self._y, size)
        if not gaps.max() <= allowed:
            raise ConfigurationError(
                f"after round {state.round} the predictions of {self._model_name} on {name!r} "
                f"differ from S·y + c by up to {gaps.max():.3g}, where at most {allowed:.3g} is "
                "rounding: give X_train, y_train and sample_weight exactly as the trees were "
                "fitted to them (without rows held out for early stopping), and a model without "
                "initial scores per row, learning rates that change, options changed since fit or "
                "lost in a model file (pickle keeps them; XGBoost takes them back by "
                "model.get_booster().set_param), constraints that move leaf values, or "
                "leaves of categories that are regularised more (LightGBM: fit with cat_l2=0)"
            )
        return gaps


def _effective_parameters(S: Floats) -> float:
    """``n/|I| Σ ‖s(x_j)‖²``."""
    rows, n = S.shape
    return float(n / rows * np.vdot(S, S))  # unlike a square, without another array of that size
