"""The design choices: parameters, what members share, and closed forms that can be wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from telescope_pipeline.cases.design_choices.sweep import FIFTHS, by_fifth, members
from telescope_pipeline.cases.design_choices.training import unrolled
from telescope_pipeline.cases.design_choices.training.train import record_steps
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.loop import Batches

_Trained = Callable[[str], tuple[Any, pd.DataFrame]]
KIND = "design_choices"


def _of(history: pd.DataFrame, choice: str, seed: int = 0) -> pd.DataFrame:
    return history[(history["choice"] == choice) & (history["seed"] == seed)].set_index("step")


def test_choices_share_data_weights_and_batches(trained: _Trained) -> None:
    _, history = trained(KIND)
    at_start = history[(history["step"] == 0) & (history["choice"] != "sigmoid")]
    assert at_start.groupby("seed")["test/mse"].nunique().tolist() == [1, 1]
    assert set(record_steps(24, 6, 5)) == set(_of(history, "plain").index)


def test_closed_form_and_lens_agree_on_every_choice(trained: _Trained) -> None:
    _, history = trained(KIND)
    for column in ("closed_form/prediction_error", "closed_form/smoother_error"):
        assert float(history[column].max()) < 1e-11
        assert float(history[column].max()) > 0


@pytest.mark.parametrize("choice", ["momentum", "weight_decay", "adaptive", "sigmoid"])
def test_a_wrong_closed_form_is_seen(
    choice: str, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong weights (for the sigmoid: no sigmoid in the closed form) differ by far more."""
    case = build(KIND)
    (chosen,) = (c for c in case.training.choices if c.name == choice)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(20, 3, generator=generator), torch.rand(20, generator=generator)
    data = {"train_inputs": x, "train_targets": y, "test_inputs": x[:6]}
    data = {name: tensor.double() for name, tensor in data.items()}

    def errors() -> tuple[float, float]:
        model: torch.nn.Module = MLP((3, 4, 1), seed=1)
        if choice == "sigmoid":
            model = torch.nn.Sequential(model, torch.nn.Sigmoid())
        batches = Batches(20, 5, 0)
        run = unrolled.unroll_run(model.double(), chosen, 8, data, batches, [4, 8])
        return float(run.prediction_error[-1]), float(run.smoother_error[-1])

    assert max(errors()) < 1e-12
    if choice == "sigmoid":
        original = unrolled.functional_call
        monkeypatch.setattr(
            unrolled,
            "functional_call",
            lambda model, *args: torch.logit(original(model, *args)),
        )
    elif choice == "adaptive":
        now = torch.eye(8, dtype=torch.float64)
        monkeypatch.setattr(unrolled, "averaging_weights", lambda steps, beta: now)
    else:
        plain = torch.eye(8, dtype=torch.float64)
        monkeypatch.setattr(unrolled, "momentum_weights", lambda steps, *a, **k: plain)
        if choice == "weight_decay":
            initial, weights = unrolled.unroll(plain, chosen.optimizer.learning_rate)
            monkeypatch.setattr(unrolled, "unroll", lambda *a, **k: (initial, weights))
    assert min(errors()) > 1e-6


def test_weights_of_gradients_are_the_textbook_ones(trained: _Trained) -> None:
    case, history = trained(KIND)
    steps = case.training.steps
    plain, momentum, decay = (_of(history, c) for c in ("plain", "momentum", "weight_decay"))
    assert plain["gradient/weight"].tolist() == pytest.approx([1.0] * len(plain))
    for step in momentum.index[1:]:
        expected = (1 - 0.8 ** (steps - step + 1)) / (1 - 0.8)
        assert momentum["gradient/weight"][step] == pytest.approx(expected)
        assert decay["gradient/weight"][step] == pytest.approx(0.95 ** (steps - step))
    assert momentum["gradient/weight"][0] == pytest.approx(1.0)
    assert decay["gradient/weight"][0] == pytest.approx(0.95**steps)


def test_shares_rise_to_one_and_rates_are_spread_only_if_adaptive(trained: _Trained) -> None:
    _, history = trained(KIND)
    for _, member in history.groupby("member"):
        share = member["gradient/contribution_share"]
        assert share.is_monotonic_increasing
        assert share.iloc[0] == 0
        assert share.iloc[-1] == pytest.approx(1.0)
        low, high = member["rate/quantile10"], member["rate/quantile90"]
        if (member["choice"] == "adaptive").all():
            assert (high.iloc[1:] > low.iloc[1:]).all()
        else:
            assert (high == low).all()


def test_kernel_norms_by_fifth(trained: _Trained) -> None:
    _, history = trained(KIND)
    for row in history.to_dict("records"):
        confidence = [row[by_fifth("confidence", fifth)] for fifth in FIFTHS]
        assert confidence == sorted(confidence)
        ratios = [row[by_fifth("kernel_norm_ratio", fifth)] for fifth in FIFTHS]
        if row["choice"] == "sigmoid":
            slopes = [row[by_fifth("sigmoid_slope", fifth)] for fifth in FIFTHS]
            # σ′(x) σ′(x′), of which the second is at most 1/4 (Eq. 13).
            assert all(0 < r <= s / 4 * (1 + 1e-5) for r, s in zip(ratios, slopes, strict=True))
        else:
            assert ratios == [1.0] * len(FIFTHS)


def test_members_follow_the_choices(build: Callable[..., Any]) -> None:
    names = [member.name for member in members(build(KIND))]
    assert names[:3] == ["plain_seed-0", "plain_seed-1", "momentum_seed-0"]
    assert len(names) == 10


_SGD = {"name": "sgd", "learning_rate": 0.1}


@pytest.mark.parametrize(
    ("choice", "field"),
    [
        ({"name": "plain", "optimizer": _SGD, "output": "sigmoid"}, "sigmoid in the choice"),
        ({"name": "sigmoid", "optimizer": _SGD}, "sigmoid in the choice"),
        ({"name": "momentum", "optimizer": _SGD}, "above 0 in the choice 'momentum'"),
        ({"name": "plain", "optimizer": _SGD | {"momentum": 0.5}}, "above 0 in the choice 'mom"),
        ({"name": "weight_decay", "optimizer": _SGD}, "above 0 in the choice 'weight_decay'"),
        ({"name": "adaptive", "optimizer": _SGD}, "adam or adamw"),
        (
            {
                "name": "adaptive",
                "optimizer": {"name": "adam", "learning_rate": 0.1, "weight_decay": 0.1},
            },
            "or adamw for a decay",
        ),
        ({"name": "cosine", "optimizer": _SGD}, "'plain', 'momentum'"),
    ],
)
def test_a_choice_that_is_not_what_its_name_says_is_refused(
    choice: dict[str, Any], field: str, build: Callable[..., Any]
) -> None:
    training = copy.deepcopy(build(KIND).training.model_dump()) | {"choices": [choice]}
    with pytest.raises(ValidationError, match=field):
        build(KIND, training=training)


def test_sizes_that_do_not_fit_are_refused(build: Callable[..., Any]) -> None:
    lens = {"probes": 41}
    with pytest.raises(ValidationError, match="train_size"):
        build(KIND, lens=lens)
    for sizes in ({"train_size": 1700, "test_size": 98}, {"train_size": 40, "test_size": 4}):
        with pytest.raises(ValidationError, match="expected at"):
            build(KIND, data=sizes)
    training = build(KIND).training.model_dump()
    choices = training["choices"]
    with pytest.raises(ValidationError, match="'plain' first"):
        build(KIND, training=training | {"choices": choices[1:]})
    with pytest.raises(ValidationError, match="differ"):
        build(KIND, training=training | {"choices": [choices[0], choices[0]]})
    with pytest.raises(ValidationError, match="train_size"):
        build(KIND, training=training | {"batch_size": 41})
