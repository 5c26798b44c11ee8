"""Training ends early where the settings say so, also when it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pandas as pd
import pytest
import torch

from telescope_pipeline.schemas.sections import EarlyStoppingSettings
from telescope_pipeline.study.findings.statistics import shared_steps
from telescope_pipeline.study.training.early_stopping import EarlyStopping


def _ends_at(settings: dict[str, Any], losses: list[float], accuracies: list[float]) -> int | None:
    """The step, with three steps an epoch, at which a run with these epochs would end."""
    measured: Iterator[tuple[float, float]] = zip(losses, accuracies, strict=True)
    stopping = EarlyStopping(EarlyStoppingSettings(**settings), 3, lambda: next(measured))
    due = (step for step in range(1, 3 * len(losses) + 1) if stopping.is_due(step))
    return next(due, None)


def test_full_accuracy_ends_training_at_the_end_of_its_epoch() -> None:
    assert _ends_at({}, [0.3, 0.2, 0.1], [0.5, 1.0, 1.0]) == 6
    assert _ends_at({"train_accuracy": 0.5}, [0.3, 0.2], [0.5, 1.0]) == 3
    assert _ends_at({}, [0.3, 0.2, 0.1], [0.5, 0.9, 0.99]) is None


def test_a_loss_that_stands_still_ends_training_after_its_patience() -> None:
    settings = {"patience": 2, "minimum_improvement": 0.01}
    losses = [0.5, 0.4, 0.395, 0.392, 0.3]
    assert _ends_at(settings, losses, [0.0] * 5) == 12
    # Small steps add up to an improvement over the best loss.
    assert _ends_at(settings, [0.5, 0.495, 0.489, 0.484, 0.478], [0.0] * 5) is None


def test_a_resumed_run_stops_where_the_uninterrupted_one_does(
    build: Callable[..., Any], train: Callable[..., Any], checkpoints: Any
) -> None:
    whole_case = build("double_descent")
    training = whole_case.training.model_dump() | {
        "epochs": 40,
        "early_stopping": {"patience": 3, "minimum_improvement": 0.01},
    }
    case = build("double_descent", training=training)
    member = import_module("telescope_pipeline.cases.double_descent.sweep").members(case)[-1]
    whole = train("double_descent", case, member)
    unhurried = train(
        "double_descent",
        build(
            "double_descent",
            training=training
            | {
                "early_stopping": None,
            },
        ),
        member,
    )
    assert whole.history["step"].iloc[-1] < unhurried.history["step"].iloc[-1]
    checkpoint = checkpoints.StoredCheckpoint(stop_after=1)
    with pytest.raises(checkpoints.Interrupted):
        train("double_descent", case, member, checkpoint)
    checkpoint.stop_after = None
    resumed = train("double_descent", case, member, checkpoint)
    pd.testing.assert_frame_equal(whole.history, resumed.history, check_exact=True)
    for name, tensor in whole.final.items():
        assert torch.equal(tensor, resumed.final[name])


def test_steps_that_some_members_did_not_reach_are_not_shared() -> None:
    history = pd.DataFrame({"member": ["a", "a", "b", "b", "b"], "step": [0, 5, 0, 3, 5]})
    assert shared_steps(history)["step"].tolist() == [0, 5, 0, 5]
