"""Data, training and figures of the network that groks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from telescope_core.errors import DataError
from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.grokking_network import claims, data, figures
from telescope_pipeline.cases.grokking_network.schema import GrokkingNetworkCase
from telescope_pipeline.cases.grokking_network.sweep import members
from telescope_pipeline.cases.grokking_network.training import train as training
from telescope_pipeline.contract import Member, TrainingJob
from telescope_pipeline.study.networks.mlp import MLP
from telescope_pipeline.study.training.loop import Batches

SMALL: dict[str, Any] = {
    "kind": "grokking_network",
    "seeds": 2,
    "data": {"source": "digits", "train_size": 30, "test_size": 20},
    "model": {"hidden": [8, 6], "alphas": [3.0, 2.0]},
    "training": {
        "steps": 24,
        "batch_size": 16,
        "warm_up": 9,
        "optimizer": {
            "name": "adamw",
            "learning_rate": 0.01,
            "betas": [0.9, 0.99],
            "weight_decay": 0.3,
        },
        "comparison": {"steps": 15, "outputs": ["linear", "sigmoid"]},
    },
    "lens": {"stride": 4, "probes": 12, "deflate": 4, "records": 6, "checkpoint_every": 7},
    "claims": {},
    "plot": {"dpi": 60},
}


def _case(**changes: Any) -> GrokkingNetworkCase:
    return GrokkingNetworkCase.model_validate(copy.deepcopy(SMALL) | changes)


def _member(case: GrokkingNetworkCase, name: str) -> Member:
    return next(member for member in members(case) if member.name == name)


@pytest.fixture
def train(checkpoints: Any) -> Callable[..., Any]:
    def run(
        case: GrokkingNetworkCase,
        member: Member,
        checkpoint: Any = None,
        recorded: Any = lambda row: None,
    ) -> Any:
        return training.train(
            TrainingJob(
                case.narrowed(member.values, member.seed),
                member,
                data.prepare(case, 0).files[member.data],
                seed=0,
                device=torch.device("cpu"),
                checkpoint=checkpoint or checkpoints.StoredCheckpoint(),
                progress=lambda done, total: None,
                recorded=recorded,
            )
        )

    return run


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """All members of the small case, as the stages pass them on."""

    class Nothing:
        def load(self) -> None:
            return None

        def save(self, tensors: Any, state: Any) -> None:
            pass

    case, parts = _case(), []
    files = data.prepare(case, 0).files
    for member in members(case):
        table = training.train(
            TrainingJob(
                case,
                member,
                files[member.data],
                seed=0,
                device=torch.device("cpu"),
                checkpoint=Nothing(),
                progress=lambda done, total: None,
            )
        ).history
        identity = {"member": member.name, "group": member.group, "seed": member.seed}
        for place, (name, value) in enumerate((identity | member.values).items()):
            table.insert(place, name, value)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def test_members_are_the_alphas_then_the_standard_outputs() -> None:
    found = members(_case())
    assert [member.name for member in found][::2] == [
        "alpha-3.0_linear_seed-0",
        "alpha-2.0_linear_seed-0",
        "alpha-1.0_linear_seed-0",
        "alpha-1.0_sigmoid_seed-0",
    ]
    assert {member.data for member in found} == set(data.prepare(_case(), 0).files)


def test_a_narrowed_case_has_its_own_member_and_no_other_group() -> None:
    case = _case()
    for member in members(case):
        own = members(case.narrowed(member.values, member.seed))
        assert member in own
        assert {other.group for other in own} == {member.group}


def test_a_member_outlives_the_growth_of_its_sweep() -> None:
    grown = _case(model={"hidden": [8, 6], "alphas": [2.0, 9.0, 3.0]}, seeds=5)
    for member in members(_case()):
        assert _case().narrowed(member.values, member.seed) == grown.narrowed(
            member.values, member.seed
        )


def test_initial_weights_are_multiples_of_the_standard_ones() -> None:
    standard = MLP((5, 4, 1), seed=3).state_dict()
    for output in ("linear", "sigmoid"):
        enlarged = training.scaled_network(5, [4], 6.0, output, seed=3)
        for one, other in zip(standard.values(), enlarged.state_dict().values(), strict=True):
            assert torch.equal(6.0 * one, other)
        outputs = enlarged(torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))
        assert bool(((outputs > 0) & (outputs < 1)).all()) == (output == "sigmoid")


def test_the_rate_warms_up_along_a_line_and_stays() -> None:
    rates = [training.warmed_up_rate(0.4, step, 4) for step in range(6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    assert training.warmed_up_rate(0.4, 0, 0) == 0.4


@pytest.mark.parametrize("name", ["alpha-3.0_linear_seed-1", "alpha-1.0_sigmoid_seed-1"])
def test_training_is_adamw_with_warm_up_written_out(name: str, train: Callable[..., Any]) -> None:
    """Against AdamW by hand in float64, with weight decay outside of the gradient."""
    case = _case()
    member = _member(case, name)
    result = train(case, member)
    tensors = {
        key: v.double()
        for key, v in data.prepare(case, 0).files[member.data].items()
        if v.is_floating_point()
    }
    x, y = tensors["train_inputs"], tensors["train_targets"]
    network = training.scaled_network(
        x.shape[1],
        case.model.hidden,
        float(member.values["alpha"]),
        str(member.values["output"]),
        seed=derive_seed(0, "grokking_network", "weights", member.seed),
    ).double()
    parameters = list(network.parameters())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    batches = Batches(30, 16, derive_seed(0, "grokking_network", "batches", member.seed))
    steps = 24 if member.values["alpha"] == 3.0 else 15
    errors = [float((network(x)[:, 0] - y).square().mean().detach())]
    for t in range(1, steps + 1):
        index = batches.at(t - 1)
        loss = 0.5 * (network(x[index])[:, 0] - y[index]).square().mean()
        gradients = torch.autograd.grad(loss, parameters)
        rate = 0.01 * min(1.0, t / 9)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(g, alpha=0.1)
                v.mul_(0.99).addcmul_(g, g, value=0.01)
                step = (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
                p.mul_(1 - rate * 0.3).sub_(rate * step)
            errors.append(float((network(x)[:, 0] - y).square().mean()))
    recorded = result.history
    assert recorded["step"].iloc[-1] == steps
    assert recorded["train/mse"].tolist() == pytest.approx(
        [errors[step] for step in recorded["step"]], rel=1e-3
    )


@pytest.mark.parametrize("saves", [1, 2])
@pytest.mark.parametrize("name", ["alpha-2.0_linear_seed-1", "alpha-1.0_sigmoid_seed-0"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    name: str, saves: int, train: Callable[..., Any], checkpoints: Any
) -> None:
    # The first checkpoint lies within the warm-up, the second after it.
    case = _case()
    member = _member(case, name)
    whole = train(case, member)
    checkpoint = checkpoints.StoredCheckpoint(stop_after=saves)
    with pytest.raises(checkpoints.Interrupted):
        train(case, member, checkpoint)
    checkpoint.stop_after = None
    told: list[Any] = []
    resumed = train(case, member, checkpoint, told.append)
    # Whoever follows is told the rows from before the interruption too.
    pd.testing.assert_frame_equal(pd.DataFrame(told), resumed.history, check_exact=True)
    pd.testing.assert_frame_equal(whole.history, resumed.history, check_exact=True)
    for key, tensor in whole.final.items():
        assert torch.equal(tensor, resumed.final[key])


def test_exact_probes_leave_no_error_and_agree_with_the_estimate(
    train: Callable[..., Any],
) -> None:
    exact = _case(lens=SMALL["lens"] | {"probes": "exact"})
    member = _member(exact, "alpha-2.0_linear_seed-0")
    true, probed = train(exact, member).history, train(_case(), member).history
    column = "train/effective_parameters"
    assert (true[f"{column}_stderr"] == 0).all()
    assert (probed[f"{column}_stderr"].iloc[-3:] > 0).all()
    # Six of its own standard errors, twelve probes: a bias would show, chance does not.
    apart = (true[column] - probed[column]).abs()
    assert (apart <= 6 * probed[f"{column}_stderr"] + 0.05 * true[column] + 1e-6).all()


def test_settings_of_a_seed_share_images_and_batches_and_seeds_do_not(
    history: pd.DataFrame,
) -> None:
    files = data.prepare(_case(), 0).files
    assert not torch.equal(files["seed-0"]["train_rows"], files["seed-1"]["train_rows"])
    start = history[history["step"] == 0]
    assert start["train/mse"].nunique() == len(start) == 8


def test_histories_are_numbers_over_increasing_steps(history: pd.DataFrame) -> None:
    case = _case()
    assert set(case.required_columns) <= set(history)
    measured = [name for name in history if "/" in name]
    assert np.isfinite(history[measured].to_numpy()).all()
    last = history.groupby("group")["step"].max().to_dict()
    assert last == {
        "alpha-3.0_linear": 24,
        "alpha-2.0_linear": 24,
        "alpha-1.0_linear": 15,
        "alpha-1.0_sigmoid": 15,
    }


def test_figures_are_reproducible_with_tidy_tables(history: pd.DataFrame) -> None:
    first, second = figures.draw(_case(), history), figures.draw(_case(), history)
    assert [figure.name for figure in first] == [
        "errors-and-effective-parameters",
        "standard-initialisation",
        "approximation-error",
    ]
    for one, other in zip(first, second, strict=True):
        assert json.dumps(one.chart) == json.dumps(other.chart)
        assert one.table.columns[0] == "step"
        assert not one.table.duplicated(["step", "setting"]).any()
        assert np.isfinite(one.table.select_dtypes("number").to_numpy()).all()


def test_a_table_holds_the_means_of_the_history(history: pd.DataFrame) -> None:
    table = figures.draw(_case(), history)[0].table
    part = table[table["setting"] == "alpha-3.0_linear"].set_index("step")
    own = history[history["group"] == "alpha-3.0_linear"].groupby("step")
    expected = own["test/effective_parameters"].mean()
    assert part["test_effective_parameters"].tolist() == pytest.approx(expected.tolist())
    wrong = 1 - own["train/accuracy"].mean()
    assert part["train_misclassification"].tolist() == pytest.approx(wrong.tolist())


def test_a_case_without_comparison_has_its_own_figures_and_claims(history: pd.DataFrame) -> None:
    case = _case(training=SMALL["training"] | {"comparison": {"steps": 15, "outputs": []}})
    enlarged = history[history["alpha"] > 1]
    assert len(figures.draw(case, enlarged)) == 2
    ids = {claim.id for claim in claims.claims(case, enlarged)}
    assert not any(name.startswith(("standard", "sigmoid")) for name in ids)
    assert "larger-scale-learns-later" in ids


def test_a_case_of_standard_members_alone_claims_nothing_of_others(history: pd.DataFrame) -> None:
    case = _case(model={"hidden": [8, 6], "alphas": []})
    standard = history[history["alpha"] == 1]
    assert len(figures.draw(case, standard)) == 2
    assert {claim.id for claim in claims.claims(case, standard)} == {
        "standard-initialisation-learns-early",
        "sigmoid-needs-fewer",
        "smoother-explains-predictions",
    }


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"source": "digits", "train_size": 1700, "test_size": 98}}, "at most 1797"),
        ({"training": SMALL["training"] | {"batch_size": 31}}, "at most data.train_size"),
        ({"lens": SMALL["lens"] | {"probes": 31}}, "at most data.train_size"),
        ({"lens": SMALL["lens"] | {"deflate": 13}}, "at most lens.probes"),
        ({"lens": SMALL["lens"] | {"stride": 25}}, "at most training.steps"),
        (
            {"training": SMALL["training"] | {"comparison": {"steps": 3, "outputs": ["linear"]}}},
            "at most training.comparison.steps",
        ),
        (
            {
                "model": {"hidden": [4], "alphas": []},
                "training": SMALL["training"] | {"comparison": {"steps": 15, "outputs": []}},
            },
            "at least one",
        ),
        ({"model": {"hidden": [4], "alphas": [1.0]}}, "greater than 1"),
        ({"model": {"hidden": [4], "alphas": [2.0, 2.0]}}, "differ from each other"),
        ({"data": SMALL["data"] | {"source": "letters"}}, "digits"),
    ],
)
def test_impossible_combinations_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _case(**changes)


def test_missing_mnist_files_are_a_data_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELESCOPE_DATA", str(tmp_path))
    folder = tmp_path / "mnist"
    folder.mkdir()
    for split, count in (("train", 60000), ("t10k", 10000)):
        (folder / f"{split}-images-idx3-ubyte").write_bytes(b"damaged")
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(bytes(count % 7))
    source = {
        "source": "mnist",
        "classes": [3, 5],
        "train_size": 30,
        "test_size": 20,
    }
    with pytest.raises(DataError):
        data.prepare(_case(data=source), 0)
