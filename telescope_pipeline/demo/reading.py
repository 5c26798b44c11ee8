"""What there is to see in the demo's run, from its own numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.study.findings.complexity import TEST_COMPLEXITY, TRAIN_COMPLEXITY
from telescope_pipeline.study.findings.statistics import crossing_step, value_at


@dataclass(frozen=True)
class Reading:
    """Events of the run, and effective parameters at them.

    Attributes:
        level: The mean squared error that counts as low.
        n: Training points.
        steps: Updates.
        memorised: Where train error has fallen to the level, between records; None if it has not.
        generalised: The same of test error.
        first: Effective parameters on train and test points where train error was low; None
            without memorisation.
        last: The same at the end.
    """

    level: float
    n: int
    steps: int
    memorised: float | None
    generalised: float | None
    first: tuple[float, float] | None
    last: tuple[float, float]

    @classmethod
    def of(cls, history: pd.DataFrame, case: GrokkingPolynomialCase) -> Reading:
        """Read a history of one run."""
        level = case.claims.low_error
        steps = history["step"]
        memorised, generalised = (
            crossing_step(steps, history[f"{name}/mse"], level) for name in ("train", "test")
        )
        curves = [history[name] for name in (TRAIN_COMPLEXITY, TEST_COMPLEXITY)]
        first = None
        if memorised is not None:
            train, test = (float(value_at(steps, curve, memorised)) for curve in curves)
            first = train, test
        last = float(curves[0].iloc[-1]), float(curves[1].iloc[-1])
        return cls(
            level,
            case.data.train_size,
            int(steps.iloc[-1]),
            memorised,
            generalised,
            first,
            last,
        )

    @property
    def numbers(self) -> dict[str, float | None]:
        """The numbers that the sentences are made of."""
        return {
            "memorised_step": self.memorised,
            "generalised_step": self.generalised,
            "p_train_memorised": None if self.first is None else self.first[0],
            "p_test_memorised": None if self.first is None else self.first[1],
            "p_train_end": self.last[0],
            "p_test_end": self.last[1],
        }

    @property
    def sentences(self) -> list[str]:
        """One on the errors and one on the effective parameters."""
        return [self._of_errors(), self._of_parameters()]

    def _of_errors(self) -> str:
        low = f"{self.level:g}"
        if self.memorised is None:
            return (
                f"Train error did not fall to {low} within {self.steps} steps: this run neither "
                "memorised nor generalised."
            )
        start = f"Train error fell to {low} at step {self.memorised:.0f} (memorised)"
        if self.generalised is None:
            return (
                f"{start}, but test error did not within {self.steps} steps: this run has not "
                "grokked."
            )
        times = self.generalised / self.memorised if self.memorised else float("inf")
        if times < 1.5:
            return (
                f"{start} and test error at step {self.generalised:.0f}: it generalised as it "
                "learned, so this is no grokking."
            )
        return (
            f"{start}, test error only at step {self.generalised:.0f} (generalised), "
            f"{times:.1f} times as far into training: that delay is grokking."
        )

    def _of_parameters(self) -> str:
        train, test = self.last
        end = f"{train:.0f} against {test:.0f} at the end, of {self.n} training points"
        if self.first is None:
            return f"Predictions used p_train against p_test effective parameters, {end}."
        before = f"{self.first[0]:.0f} against {self.first[1]:.0f} when it had memorised"
        widened = (train - test) - (self.first[0] - self.first[1])
        if train > test and widened > 0:
            return (
                "Meanwhile train points came to be fitted with more effective parameters than test "
                f"points are predicted with: p_train against p_test was {before} and is {end}, "
                "the gap that is shaded."
            )
        return (
            f"p_train against p_test was {before} and is {end}: here no gap opened between the "
            "effective parameters used on train and on test points."
        )
