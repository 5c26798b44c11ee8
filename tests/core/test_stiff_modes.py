"""The projected recursion of the stiff modes, and what it does to the estimates of the lens."""

import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RAdam, RMSprop

from telescope_core import TelescopeLens
from telescope_core.complexity import (
    degrees_of_freedom,
    effective_parameters,
    effective_parameters_per_example,
)
from telescope_core.jacobians import Linearizer
from telescope_core.network.layout import ParameterLayout
from telescope_core.probes import exact_directions, random_directions
from telescope_core.smoother.low_rank import LowRankSmoother
from telescope_core.smoother.stiff_modes import StiffModes
from telescope_core.testing import Scenario, assert_agrees
from telescope_core.update_rules import rule_for

RULES = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "momentum": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    # Without a first moment: the projection takes P at the time of the gradient.
    "adam": lambda p: Adam(p, lr=0.02, betas=(0.0, 0.9)),
    "amsgrad": lambda p: Adam(p, lr=0.02, betas=(0.0, 0.9), amsgrad=True),
    "nadam": lambda p: NAdam(p, lr=0.02, betas=(0.0, 0.9)),
    "radam": lambda p: RAdam(p, lr=0.02, betas=(0.0, 0.9)),
    "rmsprop": lambda p: RMSprop(p, lr=0.01),
    "rmsprop-momentum": lambda p: RMSprop(p, lr=0.005, momentum=0.7),
    "rmsprop-centered": lambda p: RMSprop(p, lr=0.01, centered=True),
    "adagrad": lambda p: Adagrad(p, lr=0.05, lr_decay=0.1),
}


@pytest.mark.parametrize("name", RULES)
def test_with_all_modes_of_a_linear_model_the_recursion_is_the_smoother_itself(name, lens_of):
    """Full batches of 4 rows, U of rank 4: C = Uᵀ S and Ŝ = S, whatever the optimizer."""
    scenario = Scenario("random-features", "sgd", "half-squared", rows=4, batch_size=None)
    training = scenario.start()
    training.optimizer = RULES[name](training.model.parameters())
    lens = lens_of(training, order=1, stride=1, strategy="parameter-space")
    parameters = {n: p for n, p in training.model.named_parameters() if p.requires_grad}
    layout = ParameterLayout(parameters, torch.float64)
    linearizer = Linearizer(training.model, layout, training.train_inputs)
    rule = rule_for(training.optimizer, layout, parameters, 0, 0)
    generator = torch.Generator().manual_seed(0)
    U = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    modes = StiffModes.begin(U)
    for _ in training.batches:
        batch = linearizer.linearize(linearizer.function.theta(), training.train_inputs)
        training.run(lens, steps=1)
        pulled = batch.vjp(modes.cotangents(torch.arange(4), 1))
        modes.step(torch.arange(4), 1 / 4, batch, pulled, rule)
    S = lens.smoother("train")
    assert float(S.abs().max()) > 1e-2
    assert_agrees(modes.C, U.T @ S, tolerance=1e-11, what="C")
    model = modes.model("train", lens._run.track.at_start)
    assert model is not None
    assert_agrees((model.Phi @ model.C)[:, 0], S, tolerance=1e-9, what="Ŝ")


@pytest.fixture(scope="module")
def on_digits():
    """Forty minibatch steps on digits: the exact smoother and lenses as they come.

    Most of the noise of undeflated directions is in one stiff mode here, as early in training.
    """
    digits = load_digits()
    x = torch.tensor(digits.data[:600] / 16, dtype=torch.float32)
    y = torch.tensor(digits.target[:300] % 2, dtype=torch.float32)
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
    model = nn.Sequential(*hidden, nn.Linear(200, 1), nn.Flatten(0))
    optimizer = AdamW(model.parameters(), lr=3e-4)

    def loss(outputs, targets):
        return 0.5 * (outputs - targets).square().mean()

    def lens(**options):
        sets = {"test": x[300:]}
        return TelescopeLens(model, optimizer, loss, x[:300], y, sets, stride=10, **options)

    exact = lens(probes="exact", strategy="midpoint")
    probed = [lens(seed=seed) for seed in range(2)]
    generator = torch.Generator().manual_seed(1)
    for _ in range(40):
        index = torch.randperm(300, generator=generator)[:60]
        with exact.step(index), probed[0].step(index), probed[1].step(index):
            optimizer.zero_grad()
            loss(model(x[index]), y[index]).backward()
            optimizer.step()
    return exact, probed


@pytest.mark.parametrize("name", ["train", "test"])
def test_two_standard_errors_cover_the_exact_value_for_nine_seeds_in_ten(name, on_digits):
    """Fifty seeds of directions; S·V and Ŝ are what a lens with these directions would hold."""
    exact, probed = on_digits
    S = exact.smoother(name)[:, None, :]
    truth = exact.snapshot().to_record()[f"{name}/effective_parameters"]
    engine = probed[0]._run.track.engine
    leading = engine.directions.basis[:, 0, :16]
    errors = {"plain": [], "controlled": []}
    covered = dict.fromkeys(errors, 0)
    for seed in range(50):
        directions = random_directions(300, 1, 64, leading, seed, S)
        SV = S @ directions.basis[:, 0]
        for kind, model in (("plain", None), ("controlled", engine.model(name))):
            value, stderr = effective_parameters(SV, directions, model)
            errors[kind].append(value / truth - 1)
            covered[kind] += abs(value - truth) <= 2 * stderr
    scatter = {k: math.sqrt(sum(e**2 for e in v) / len(v)) for k, v in errors.items()}
    assert covered["controlled"] >= 45
    assert covered["plain"] >= 45
    assert scatter["controlled"] < 0.5 * scatter["plain"]


def test_the_records_of_the_lens_are_these_estimates(on_digits):
    exact, probed = on_digits
    truth = exact.snapshot().to_record()
    for lens in probed:
        record = lens.snapshot().to_record()
        engine = lens._run.track.engine
        for name in ("train", "test"):
            SV = exact.smoother(name) @ engine.directions.basis[:, 0]
            value, stderr = effective_parameters(SV[:, None], engine.directions, engine.model(name))
            key = f"{name}/effective_parameters"
            assert record[key] == pytest.approx(value, rel=1e-4)
            assert record[f"{key}_stderr"] == pytest.approx(stderr, rel=1e-2)
            assert abs(record[key] - truth[key]) < 4 * record[f"{key}_stderr"]
            each = lens.effective_parameters_per_example(name)
            assert float(each.mean()) == pytest.approx(record[key], rel=1e-9)


def low_rank(k, seed, rank=3):
    generator = torch.Generator().manual_seed(seed)
    normal = {"generator": generator, "dtype": torch.float64}
    return LowRankSmoother(torch.randn(6, k, rank, **normal), torch.randn(rank, 6 * k, **normal))


@pytest.mark.parametrize("deflated", [1, 3])
@pytest.mark.parametrize("k", [1, 2])
def test_measures_of_a_low_rank_smoother_need_no_sampling(k, deflated):
    """With Ŝ = S every draw gives the measure exactly, with no error left."""
    model = low_rank(k, seed=0)
    S = model.Phi @ model.C
    exact = exact_directions(6, k, S)
    along = S.view(6, k, -1) @ exact.basis.flatten(0, 1)
    leading = torch.eye(6 * k, dtype=torch.float64)[:, :deflated]
    directions = random_directions(6, k, 5, leading, 3, S)
    SV = S @ directions.basis.flatten(0, 1)
    value, stderr = effective_parameters(SV, directions, model)
    assert value == pytest.approx(effective_parameters(along, exact)[0], rel=1e-12)
    assert stderr < 1e-12 * value
    trace = degrees_of_freedom(SV, directions.basis, directions, model)
    assert trace == pytest.approx(degrees_of_freedom(along, exact.basis, exact), rel=1e-12)
    assert_agrees(
        effective_parameters_per_example(SV, directions, model),
        effective_parameters_per_example(along, exact),
        tolerance=1e-12,
        what="effective parameters per example",
    )


def test_estimates_are_unbiased_under_a_rough_model():
    """A model that is half right lowers the scatter and moves the mean nowhere."""
    model = low_rank(1, seed=0, rank=6)
    rough = LowRankSmoother(0.8 * model.Phi, model.C)
    S = model.Phi @ model.C
    exact = exact_directions(6, 1, S)
    truth = effective_parameters(S @ exact.basis[:, 0], exact)[0]
    leading = torch.eye(6, dtype=torch.float64)[:, :2]
    errors = {"plain": [], "rough": []}
    for seed in range(2000):
        directions = random_directions(6, 1, 5, leading, seed, S)
        SV = S @ directions.basis[:, 0]
        for name, used in (("plain", None), ("rough", rough)):
            errors[name].append(effective_parameters(SV, directions, used)[0] / truth - 1)
    plain, controlled = (torch.tensor(e, dtype=torch.float64) for e in errors.values())
    assert abs(float(controlled.mean())) < 3 * float(controlled.std()) / 2000**0.5
    assert float(controlled.std()) < 0.5 * float(plain.std())


def test_a_model_that_has_lost_track_is_left_out():
    model = low_rank(1, seed=0)
    S = model.Phi @ model.C
    leading = torch.eye(6, dtype=torch.float64)[:, :2]
    directions = random_directions(6, 1, 5, leading, 0, S)
    SV = S @ directions.basis[:, 0]
    lost = LowRankSmoother(-1e3 * model.Phi, model.C)

    def trace(SV, directions, model=None):
        return degrees_of_freedom(SV, directions.basis, directions, model)

    for measure in (effective_parameters, effective_parameters_per_example, trace):
        plain = measure(SV, directions)
        assert torch.equal(torch.as_tensor(measure(SV, directions, lost)), torch.as_tensor(plain))
        assert not torch.equal(
            torch.as_tensor(measure(SV, directions, model)), torch.as_tensor(plain)
        )


@pytest.mark.parametrize("loss", ["huber", "cross-entropy"])
def test_other_losses_are_estimated_without_a_model(loss, lens_of):
    training = Scenario("mlp-outputs", "adamw", loss).start()
    lens = lens_of(training, probes=10, deflate=4)
    training.run(lens)
    assert lens._run.track.engine.model("train") is None
    assert lens.snapshot().to_record()["train/degrees_of_freedom"] > 0


def test_a_checkpoint_carries_the_modes(lens_of):
    def start():
        training = Scenario("mlp-vector", "sgd-nesterov", "mse").start()
        return training, lens_of(training, probes=6, deflate=3, stride=4)

    training, whole = start()
    training.run(whole)
    first, lens = start()
    first.run(lens, steps=5)
    saved = lens.state_dict()
    _, resumed = start()
    resumed.load_state_dict(saved)
    assert_agrees(
        resumed._run.track.engine._stiff.C, lens._run.track.engine._stiff.C, tolerance=0, what="C"
    )
    second = lens_of(first, probes=6, deflate=3, stride=4)
    second.load_state_dict(saved)
    first.run(second)
    assert second.snapshot().to_record() == whole.snapshot().to_record()
