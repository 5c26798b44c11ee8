"""Figures of the grokking case."""

from __future__ import annotations

import pandas as pd

from telescope_pipeline.cases.grokking_polynomial.metrics import divergence_steps, of_group
from telescope_pipeline.cases.grokking_polynomial.schema import GrokkingPolynomialCase
from telescope_pipeline.contract import Figure
from telescope_pipeline.study.drawing import (
    SETS,
    Guide,
    Line,
    Panel,
    bands,
    between,
    figure,
    model_errors,
    on_sets,
)
from telescope_pipeline.study.findings.statistics import crossing_step, over_seeds

QUESTION = "Why does test error fall long after training error has?"
_STEPS = "training step (full-batch updates)"


def draw(case: GrokkingPolynomialCase, history: pd.DataFrame) -> list[Figure]:
    """Draw all figures of the case."""
    main = of_group(history, case.model.epsilon)
    drawn = [_errors_and_complexity(case, main), _approximation(case, main)]
    return [*drawn, _by_epsilon(case, history)] if len(case.epsilons) > 1 else drawn


def _errors_and_complexity(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    errors = on_sets(history, "mse")
    complexity = on_sets(history, "effective_parameters")
    level, n = case.claims.low_error, case.data.train_size
    crossed = {
        name: crossing_step(line.curve["step"], line.curve["mean"], level)
        for name, line in zip(SETS, errors, strict=True)
    }
    found = {f"{name} error at {level:g}": step for name, step in crossed.items() if step}
    most = max(float(line.curve["mean"].max()) for line in complexity)
    above = Panel(
        errors,
        x=_STEPS,
        y="mean squared error",
        y_scale="log",
        x_range=(_first(int(history["step"].max())), None),
        guides=[
            Guide(level, axis="y"),
            *(Guide(step, text, level=row) for row, (text, step) in enumerate(found.items())),
        ],
    )
    below = Panel(
        [between(*complexity), *complexity],
        x=_STEPS,
        y="effective parameters",
        y_range=(0, 1.12 * max(n, most)),
        guides=[Guide(n, f"n = {n} training points", axis="y"), *map(Guide, found.values())],
    )
    return figure(
        "errors-and-effective-parameters",
        "Errors and effective parameters over training",
        "Polynomial regression by full-batch gradient descent. Top: error on training and test "
        f"points; dashed lines mark where each falls to {level:g}. Bottom: effective parameters "
        "used on the same points; the gap between the two is shaded. " + bands(case.seeds),
        [[above], [below]],
        size=(500, 200),
    )


def _by_epsilon(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    epsilons = sorted(case.epsilons)
    steps = min(case.steps_with(epsilon) for epsilon in epsilons)
    rows: dict[str, list[Panel]] = {"mse": [], "effective_parameters": []}
    for epsilon in epsilons:
        part = of_group(history, epsilon)
        part = part[part["step"] <= steps]
        events = [event.step for event in divergence_steps(case, part)]
        steps_of_all = [float(step) for step in events if step is not None]
        diverged = len(steps_of_all) == len(events)
        lines = {
            quantity: [
                Line(
                    over_seeds(part, f"{name}/{quantity}"),
                    colour,
                    f"{name} points",
                    f"{name}_{quantity}",
                    {"epsilon": epsilon},
                )
                for name, colour in SETS.items()
            ]
            for quantity in rows
        }
        rows["mse"].append(
            Panel(
                lines["mse"],
                title=f"ε = {epsilon:g}",
                x=_STEPS,
                y="mean squared error",
                y_scale="log",
                x_range=(_first(steps), steps),
            )
        )
        rows["effective_parameters"].append(
            Panel(
                lines["effective_parameters"],
                x=_STEPS,
                y="effective parameters",
                guides=[Guide(sum(steps_of_all) / len(events))] if diverged else [],
            )
        )
    return figure(
        "effective-parameters-by-epsilon",
        "Errors and effective parameters for networks ever further from linear",
        "The first steps of the same regression with each epsilon, the strength of the network's "
        "quadratic term. Dashed lines: where the effective parameters used on training points come "
        "to exceed those used on test points for good, by more than "
        f"{case.claims.divergence_gap:g}. {bands(case.seeds)}",
        list(rows.values()),
        size=(230, 190),
        share_y="row",
    )


def _approximation(case: GrokkingPolynomialCase, history: pd.DataFrame) -> Figure:
    panel = Panel(
        model_errors(history), x=_STEPS, y="mean absolute error on test points", y_scale="log"
    )
    return figure(
        "approximation-error",
        "How well each model explains the network's test predictions",
        "Mean absolute difference from the network's test predictions of the lazy linearisation, "
        "of the telescoped predictions and of the smoother that the effective parameters are "
        "computed from. This network is quadratic in its weights, so the second-order rule is "
        f"exact and leaves rounding errors only. {bands(case.seeds)}",
        [[panel]],
        size=(500, 240),
    )


def _first(last: int) -> int:
    """Where the step axis starts: the first ten steps spend next to no effective parameters."""
    return 10 if last >= 1000 else 1
