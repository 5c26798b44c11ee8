"""The user's own model: plain training underneath, checks, sweeps and declared claims."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import own_networks
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from telescope_core.errors import ConfigurationError, DataError, LossError, ParametersError
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.own_model.claims import claims
from telescope_pipeline.cases.own_model.data import check_sets
from telescope_pipeline.cases.own_model.metrics import summarize
from telescope_pipeline.cases.own_model.sweep import file_stem, group_name
from telescope_pipeline.cases.own_model.training.losses import accuracy_of, loss_of
from telescope_pipeline.contract import TrainingJob
from telescope_pipeline.study.training.loop import Batches
from telescope_pipeline.study.user_calls import user_seed

KIND = "own_model"


def _module(name: str) -> Any:
    return import_module(f"telescope_pipeline.cases.{KIND}.{name}")


@pytest.fixture
def run(build: Callable[..., Any], checkpoints: Any) -> Callable[..., Any]:
    """Prepare the data of a case and train its first member, as the stages do."""

    def train(**sections: Any) -> tuple[Any, Any, dict[str, Tensor], Any]:
        case = build(KIND, **{"sweep": {}, **sections})
        member = _module("sweep").members(case)[0]
        data = _module("data").prepare(case, 3).files[member.data]
        trained = _module("training.train").train(
            TrainingJob(
                case,
                member,
                data,
                seed=3,
                device=torch.device("cpu"),
                checkpoint=checkpoints.StoredCheckpoint(),
                progress=lambda done, total: None,
            )
        )
        return case, member, data, trained

    return train


def _plain(case: Any, member: Any, data: dict[str, Tensor], loss: Any, optimizer: Any) -> Any:
    """The same training in plain PyTorch; gives the network and the train loss at every step."""
    torch.manual_seed(derive_seed(3, KIND, "weights", member.seed) % 2**31)
    model = own_networks.build(0, **case.model.options)
    steps = optimizer(model)
    x, y = data["train_inputs"], data["train_targets"]
    size = case.training.batch_size
    batches = Batches(len(x), size, derive_seed(3, KIND, "batches", member.seed)) if size else None
    losses = []
    for step in range(case.training.steps):
        losses.append(loss(model(x), y).item())
        index = batches.at(step) if batches else torch.arange(len(x))
        steps.zero_grad()
        loss(model(x[index]), y[index]).backward()
        steps.step()
    return model, [*losses, loss(model(x), y).item()]


@pytest.mark.parametrize("size", [8, None])
def test_training_is_a_plain_loop_bit_for_bit(size: int | None, run: Callable[..., Any]) -> None:
    case, member, data, trained = run(training={"steps": 20, "batch_size": size})

    def half_mse(outputs: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (outputs.squeeze(-1) - targets).square().mean()

    def adamw(model: Any) -> Any:
        return torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)

    model, losses = _plain(case, member, data, half_mse, adamw)
    for name, tensor in model.state_dict().items():
        assert torch.equal(trained.final[name], tensor)
    history = trained.history
    assert history["train/loss"].tolist() == [losses[step] for step in history["step"]]


def test_ones_own_loss_optimizer_and_metrics_are_used_as_they_are(
    run: Callable[..., Any],
) -> None:
    case, member, data, trained = run(
        loss="own_networks:loss",
        optimizer={"call": "own_networks:optimizer", "options": {"lr": 0.02}},
        training={
            "steps": 15,
            "batch_size": 7,
            "metrics": {"median": "own_networks:median_error"},
        },
    )
    model, losses = _plain(
        case, member, data, own_networks.loss, lambda model: own_networks.optimizer(model, 0.02)
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(trained.final[name], tensor)
    history = trained.history
    assert history["train/loss"].tolist() == [losses[step] for step in history["step"]]
    with torch.no_grad():
        expected = own_networks.median_error(model(data["test_inputs"]), data["test_targets"])
    assert history["test/median"].iloc[-1] == float(expected)
    assert {"train/median", "train/effective_parameters"} <= set(history)
    assert "train/accuracy" not in history


def test_classes_have_accuracies_and_their_own_figure(
    run: Callable[..., Any], build: Callable[..., Any]
) -> None:
    sections: dict[str, Any] = {
        "data": "own_networks:load_classes",
        "model": {"call": "own_networks:build", "options": {"outputs": 2}},
        "loss": "cross_entropy",
    }
    _, member, data, trained = run(**sections)
    assert data["train_targets"].dtype == torch.int64
    assert trained.history["test/accuracy"].between(0, 1).all()
    history = trained.history.assign(member=member.name, group=member.group, seed=0)
    drawn = _module("figures").draw(build(KIND, sweep={}, seeds=1, **sections), history)
    assert [figure.name for figure in drawn] == [
        "loss-over-training",
        "accuracy-over-training",
        "degrees-of-freedom-over-training",
        "approximation-error",
    ]


def test_the_lens_follows_the_sets_it_is_told_to(run: Callable[..., Any]) -> None:
    lens = {"stride": 4, "probes": None, "records": 3}
    more = {"data": "own_networks:load_more"}
    *_, data, trained = run(lens=lens, **more)
    assert "shifted_targets" not in data
    columns = set(trained.history)
    assert {"shifted/approximation_error", "test/linearization_error"} <= columns
    assert not any("effective_parameters" in name or "shifted/loss" in name for name in columns)

    *_, trained = run(lens=lens | {"sets": ["shifted"], "kernel_norms": True}, **more)
    columns = set(trained.history)
    assert {"shifted/kernel_norm_mean", "train/kernel_norm_max", "test/loss"} <= columns
    assert "test/approximation_error" not in columns
    with pytest.raises(ConfigurationError, match=r"lens\.sets: got 'tset'; expected some of test"):
        run(lens=lens | {"sets": ["tset"]}, **more)


def test_rows_at_a_time_change_nothing(run: Callable[..., Any]) -> None:
    lens = {"stride": 4, "probes": 6, "records": 4}
    whole = run(lens=lens)[-1].history
    chunked = run(lens=lens | {"chunk_size": 5})[-1].history
    np.testing.assert_allclose(whole, chunked, rtol=1e-4, atol=1e-6)


def test_a_batch_larger_than_the_data_is_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(ConfigurationError, match="at most the 30 rows of train_inputs"):
        run(training={"steps": 20, "batch_size": 31})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": "own_networks:load"}, r"model\.call: own_networks:load returned dict"),
        ({"optimizer": "own_networks:build"}, r"optimizer\.call: calling it.* raised"),
        (
            {"training": {"steps": 20, "metrics": {"odd": "own_networks:not_a_number"}}},
            r"training\.metrics\.odd: own_networks:not_a_number returned list; expected a number",
        ),
        ({"data": "own_networks:build"}, r"data\.call: own_networks:build returned Sequential"),
    ],
)
def test_functions_that_return_something_else_are_named(
    sections: dict[str, Any], message: str, run: Callable[..., Any]
) -> None:
    with pytest.raises(ParametersError, match=message):
        run(**sections)


_GOOD = own_networks.load(0)
_NAN = torch.full((12, 3), torch.nan)


@pytest.mark.parametrize(
    ("changed", "loss", "error", "message"),
    [
        ({"test_inputs": None}, "mse", ParametersError, "test_targets without test_inputs"),
        ({"test_targets": None}, "mse", ParametersError, "test_targets is missing"),
        ({"tst_inputs": 3, "more": 2}, "mse", ParametersError, "returned 'more'; expected names"),
        ({"Extra_inputs": _NAN}, "mse", ParametersError, "set in small letters"),
        ({"test_inputs": np.zeros((12, 3))}, "mse", ParametersError, "torch.from_numpy makes one"),
        ({"test_inputs": [[1.0]]}, "mse", ParametersError, "is a builtins.list"),
        ({"test_inputs": _NAN}, "mse", DataError, "NaN or infinity in 12 of 12 rows"),
        ({"test_inputs": torch.zeros(12, 4)}, "mse", DataError, r"expected those of train_inputs"),
        ({"test_inputs": torch.zeros(12, 3).double()}, "mse", DataError, "torch.float64"),
        ({"test_inputs": torch.zeros(11, 3)}, "mse", DataError, "has 11 rows, test_targets 12"),
        ({"train_inputs": torch.zeros(0, 3)}, "mse", DataError, "at least one row"),
        ({}, "cross_entropy", DataError, "expects class indices from 0"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(
    changed: dict[str, Any], loss: str, error: type[Exception], message: str
) -> None:
    sets = {name: value for name, value in (_GOOD | changed).items() if value is not None}
    with pytest.raises(error, match=message):
        check_sets(sets, loss, "data.call: my:load")


def test_numbers_are_wanted_where_classes_are_given() -> None:
    with pytest.raises(DataError, match=r"targets\.float\(\)"):
        check_sets(own_networks.load_classes(0), "half_mse", "data.call: my:load")


def test_named_losses_are_torchs_own() -> None:
    outputs, numbers = torch.randn(9, 1), torch.rand(9)
    close = torch.testing.assert_close
    close(loss_of("mse")(outputs, numbers), functional.mse_loss(outputs[:, 0], numbers))
    close(2 * loss_of("half_mse")(outputs, numbers), loss_of("mse")(outputs, numbers))
    expected = functional.binary_cross_entropy_with_logits(outputs[:, 0], numbers)
    close(loss_of("bce_with_logits")(outputs, numbers), expected)
    right = accuracy_of("bce_with_logits")
    assert right is not None
    assert right(outputs, (outputs[:, 0] > 0).float()) == 1
    with pytest.raises(LossError, match=r"outputs have shape \(9, 2\), the targets \(9,\)"):
        loss_of("mse")(torch.zeros(9, 2), numbers)


def test_a_sweep_trains_every_combination_and_shares_data_where_it_can(
    build: Callable[..., Any],
) -> None:
    sweep = {"model.options.hidden": [3, 4], "data.options.noise": [0.0, 0.5]}
    case = build(KIND, sweep=sweep)
    members = _module("sweep").members(case)
    assert [member.group for member in members[::2]] == [
        "hidden-3_noise-0.0",
        "hidden-3_noise-0.5",
        "hidden-4_noise-0.0",
        "hidden-4_noise-0.5",
    ]
    assert {member.data for member in members} == {
        f"noise-{noise}_seed-{seed}" for noise in (0.0, 0.5) for seed in (0, 1)
    }
    narrowed = case.narrowed(members[-1].values, 1)
    assert narrowed.model.options["hidden"] == 4
    assert narrowed.data.options["noise"] == 0.5
    files = _module("data").prepare(case, 0).files
    quiet, noisy = files["noise-0.0_seed-0"], files["noise-0.5_seed-0"]
    assert torch.equal(quiet["train_inputs"], noisy["train_inputs"])
    assert not torch.equal(quiet["train_targets"], noisy["train_targets"])


def test_leaves_with_one_last_part_are_told_apart() -> None:
    values = {"model.options.width": 1, "data.options.width": 2}
    assert group_name(values) == "model-options-width-1_data-options-width-2"
    assert file_stem(values, 0) == "width-2_seed-0"
    assert group_name({}) == "all"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"sweep": {"seeds": [1, 2]}}, "expected leaves in model, data, optimizer"),
        ({"sweep": {"loss": ["mse", "half_mse"]}}, "training, lens, not loss"),
        ({"sweep": {"training.stpes": [5]}}, "there is no training.stpes"),
        ({"sweep": {"training.steps": [5, 1]}}, r"with training.steps=1: lens.stride: expected"),
        ({"optimizer": "own_networks"}, "settings, or a function's place"),
        ({"sweep": {"training.steps": [5, "x"]}}, "values of one type"),
        ({"sweep": {"optimizer.learning_rate": [-1.0]}}, "values that fit the case"),
        ({"sweep": {"model.call": ["a:b", "a.b"]}}, "values that fit the case"),
        ({"sweep": {"data.options.x": ["a b", "a-b"]}}, "differ as parts of file names"),
        ({"sweep": {"data.options.x": []}}, "at least 1 item"),
        ({"lens": {"stride": 30}}, r"at most training\.steps \(20\)"),
        ({"loss": "mes"}, "expected mse, half_mse"),
        ({"model": "my_model"}, "a function's place such as"),
        ({"optimizer": {"name": "adam"}}, "Field required"),
        ({"training": {"steps": 9, "metrics": {"loss": "a:b"}}}, "other names than loss"),
        ({"claims": [{"metric": "test/loss"}]}, "exactly one of below and above"),
        ({"claims": [{"metric": "loss", "below": 1.0}]}, "a recorded quantity"),
        ({"claims": [{"metric": "test/loss", "below": 1.0}] * 2}, "ids that differ"),
    ],
)
def test_bad_sections_are_refused(
    sections: dict[str, Any], message: str, build: Callable[..., Any]
) -> None:
    with pytest.raises(ValidationError, match=message):
        build(KIND, **{"sweep": {}, **sections})


def _history(**columns: list[float]) -> pd.DataFrame:
    """Two seeds of two groups at steps 0, 5 and 10; the same in both groups but for a shift."""
    parts = [
        pd.DataFrame({"step": [0, 5, 10], **columns}).assign(
            member=f"{group}_seed-{seed}", group=group, seed=seed
        )
        for group in ("learning_rate-0.1", "learning_rate-0.2")
        for seed in (0, 1)
    ]
    parts[-1]["test/loss"] += 0.01
    return pd.concat(parts, ignore_index=True)


_FALLING = {"test/loss": [4.0, 2.0, 1.0], "train/loss": [4.0, 1.5, 0.5]}


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        ({"below": 1.02}, True),
        ({"below": 1.0}, False),
        ({"below": 1.01, "standard_errors": 3.0}, False),
        ({"above": 0.9}, True),
        ({"at": "first", "below": 4.1}, True),
        ({"at": "first", "below": 3.0}, False),
        ({"at": "every", "below": 4.1}, True),
        ({"at": "every", "above": 1.5}, False),
        ({"at": 3, "below": 2.1}, True),
        ({"at": 6, "above": 2.0}, False),
        ({"above": "train/loss"}, True),
        ({"at": "every", "above": "train/loss"}, False),
    ],
)
def test_a_declared_claim_holds_if_it_does_in_every_setting(
    claim: dict[str, Any], holds: bool, build: Callable[..., Any]
) -> None:
    sections = {
        "sweep": {"optimizer.learning_rate": [0.1, 0.2]},
        "claims": [{"metric": "test/loss", **claim}],
    }
    case = build(KIND, **sections)
    (found,) = claims(case, _history(**_FALLING))
    assert found.holds is holds
    (observed,) = found.observed.values()
    assert set(observed) == {"learning_rate-0.1", "learning_rate-0.2"}
    assert found.statement.endswith("in every setting.")


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"metric": "test/los", "below": 1.0}, r"claims\[0\]\.metric.*did you mean test/loss\?"),
        ({"metric": "test/loss", "below": "test/mse"}, r"claims\[0\]\.below: got 'test/mse'"),
        ({"metric": "test/loss", "at": 11, "below": 1.0}, r"at most the last recorded step, 10"),
    ],
)
def test_a_claim_about_nothing_recorded_is_an_error(
    claim: dict[str, Any], message: str, build: Callable[..., Any]
) -> None:
    case = build(KIND, sweep={"optimizer.learning_rate": [0.1, 0.2]}, claims=[claim])
    with pytest.raises(ParametersError, match=message):
        claims(case, _history(**_FALLING))


def test_the_summary_is_the_mean_over_seeds(build: Callable[..., Any]) -> None:
    case = build(KIND, sweep={"optimizer.learning_rate": [0.1, 0.2]})
    found = summarize(case, _history(**_FALLING))
    assert found["learning_rate-0.1"] == {
        "test_loss": 1.0,
        "test_loss_stderr": 0.0,
        "train_loss": 0.5,
        "train_loss_stderr": 0.0,
    }
    assert found["learning_rate-0.2"]["test_loss"] == pytest.approx(1.005)
    assert found["learning_rate-0.2"]["test_loss_stderr"] == pytest.approx(0.005)


def test_seeds_suit_every_generator() -> None:
    assert user_seed(2**63 - 1) < 2**31
    np.random.default_rng(user_seed(2**63 - 1))
