"""Figures of the grokking case."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from telescope_pipeline.cases.grokking_polynomial.metrics import divergence_steps, of_group
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    SETS,
    Guide,
    Line,
    Panel,
    about,
    bands,
    between,
    counted,
    figure,
    measured,
    model_errors,
    on_sets,
    times,
)
from telescope_pipeline.study.findings.statistics import crossing_step

QUESTION = "Why does test error fall long after training error has?"
_STEPS = "training step"


def headline(case: GrokkingPolynomialCase, history: pd.DataFrame) -> str:
    """How much later test error falls than train error, and what both sets use by then."""
    main = of_group(history, case.model.epsilon)
    level, last = case.claims.low_error, int(main["step"].max())
    train, test = (found or math.nan for found in _crossings(case, main).values())
    used, spent = (float(c.curve["mean"].iloc[-1]) for c in on_sets(main, "effective_parameters"))
    ends = f"it ends with {counted(used)} effective parameters on training and {counted(spent)} on "
    ends += "test points"
    if math.isnan(train):
        return f"Train error does not fall to {level:g} within {last:,} steps; {ends}."
    if math.isnan(test):
        return (
            f"Train error falls to {level:g} at step {about(train)}, test error not within "
            f"{last:,} steps; {ends}."
        )
    return (
        f"Test error falls to {level:g}, {times(test / train)} as many steps in as train error "
        f"(step {about(test)} against {about(train)}); {ends}."
    )


def _crossings(case: GrokkingPolynomialCase, history: pd.DataFrame) -> dict[str, float | None]:
    """The step at which the mean error on each set falls to the level of the claims."""
    level = case.claims.low_error
    return {
        name: crossing_step(line.curve["step"], line.curve["mean"], level)
        for name, line in zip(SETS, on_sets(history, "mse"), strict=True)
    }


def draw(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    main = of_group(history, case.model.epsilon)
    drawn = [_errors_and_complexity(case, main), _approximation(case, main)]
    return [*drawn, _by_epsilon(case, history)] if len(case.epsilons) > 1 else drawn


def _errors_and_complexity(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    errors = on_sets(history, "mse")
    complexity = on_sets(history, "effective_parameters")
    level, n = case.claims.low_error, case.data.train_size
    crossed = _crossings(case, history)
    marks = [Guide(step, f"{name} error {level:g}") for name, step in crossed.items() if step]
    most = max(float(line.curve["mean"].max()) for line in complexity)
    above = Panel(
        errors,
        x=_STEPS,
        y="mean squared error",
        y_scale="log",
        x_range=(_first(int(history["step"].max())), None),
        guides=[
            Guide(level, f"error {level:g}", axis="y"),
            *marks,
        ],
    )
    below = Panel(
        [between(*complexity), *complexity],
        x=_STEPS,
        y="effective parameters",
        y_range=(0, 1.12 * max(n, most)),
        guides=[Guide(n, f"{n} training points", axis="y"), *marks],
    )
    return figure(
        "errors-and-effective-parameters",
        "Errors and effective parameters over training",
        "Polynomial regression by full-batch gradient descent. Top: error on training and test "
        f"points; dashed lines mark where each falls to {level:g}. Bottom: effective parameters "
        "used on the same points; the gap between the two is shaded. " + bands(case.seeds),
        [[above], [below]],
        see="Compare where the two errors fall with where the two counts of effective parameters "
        "part.",
    )


def _by_epsilon(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    epsilons = sorted(case.epsilons)
    steps = min(case.steps_with(epsilon) for epsilon in epsilons)
    columns = ("mse", "effective_parameters")
    rows: list[list[Panel]] = []
    for epsilon in epsilons:
        part = of_group(history, epsilon)
        part = part[part["step"] <= steps]
        events = [event.step for event in divergence_steps(case, part)]
        steps_of_all = [float(step) for step in events if step is not None]
        diverged = len(steps_of_all) == len(events)
        lines = {
            quantity: [
                Line(
                    measured(part, f"{name}/{quantity}"),
                    colour,
                    f"{name} points",
                    f"{name}_{quantity}",
                    {"epsilon": epsilon},
                )
                for name, colour in SETS.items()
            ]
            for quantity in columns
        }
        where = [Guide(sum(steps_of_all) / len(events), "train ahead")] if diverged else []
        ends = (_first(steps), steps)
        titled: dict[str, Any] = {"title": f"ε = {epsilon:g}", "x": _STEPS, "x_range": ends}
        rows.append(
            [
                Panel(lines["mse"], y="mean squared error", y_scale="log", **titled),
                Panel(
                    lines["effective_parameters"], y="effective parameters", guides=where, **titled
                ),
            ]
        )
    return figure(
        "effective-parameters-by-epsilon",
        "Errors and effective parameters for networks ever further from linear",
        "The first steps of the same regression with each epsilon, the strength of the network's "
        "quadratic term. Dashed lines: where the effective parameters used on training points come "
        "to exceed those used on test points for good, by more than "
        f"{case.claims.divergence_gap:g}. {bands(case.seeds)}",
        rows,
        see="See whether the gap between the two counts opens earlier the larger ε is.",
        height=120,
        share_y="all",
    )


def _approximation(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    panel = Panel(model_errors(history), x=_STEPS, y="mean absolute error, test", y_scale="log")
    return figure(
        "approximation-error",
        "How well each model explains the network's test predictions",
        "Mean absolute difference from the network's test predictions of the lazy linearisation, "
        "of the telescoped predictions and of the smoother that the effective parameters are "
        "computed from. This network is quadratic in its weights, so the second-order rule is "
        f"exact and leaves rounding errors only. {bands(case.seeds)}",
        [[panel]],
        see="The lower a line, the better it explains the network: compare telescoped with lazy.",
        height=200,
    )


def _first(last: int) -> int:
    """Where the step axis starts: the first ten steps spend next to no effective parameters."""
    return 10 if last >= 1000 else 1
