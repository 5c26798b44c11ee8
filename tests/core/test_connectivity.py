"""Children, interpolation and gaps do what their definitions say."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from telescope_core import from_checkpoints
from telescope_core.connectivity import (
    AccuracyGap,
    accuracy_gap,
    gradient_change,
    interpolate,
    interpolation_curve,
    recompute_statistics,
    spawn,
)
from telescope_core.errors import ConfigurationError, NonFiniteError, ShapeError
from telescope_pipeline.study.networks.resnet import ResidualNetwork


def _network(seed: int = 0) -> ResidualNetwork:
    return ResidualNetwork(1, 3, widths=(4, 6), blocks=1, seed=seed)


def _images(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def _labels(rows: int) -> Tensor:
    return torch.arange(rows) % 3


def _optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), 0.01)


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(_images(9, seed)), _labels(9)).backward()
        optimizer.step()


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_child_on_the_same_batches_is_the_uninterrupted_run(name: str) -> None:
    """Momentum, counters and running statistics come along, or the runs would part."""
    model = _network()
    optimizer = _optimizer(name, model)
    _steps(model, optimizer, range(4))
    held = _weights(model)
    same, other = spawn(model, optimizer)
    _steps(same.model, same.optimizer, range(4, 8))
    _steps(other.model, other.optimizer, range(14, 18))
    for key, value in model.state_dict().items():
        assert torch.equal(value, held[key]), "spawning or training a child moved the parent"
    _steps(model, optimizer, range(4, 8))
    for key, value in model.state_dict().items():
        assert torch.equal(value, same.model.state_dict()[key])
    apart = other.model.state_dict()
    assert not torch.equal(apart["head.weight"], model.state_dict()["head.weight"])


def test_children_share_no_memory() -> None:
    model = _network()
    optimizer = _optimizer("sgd", model)
    _steps(model, optimizer, range(1))
    children = spawn(model, optimizer, children=3)
    places = [t.data_ptr() for m in (model, *(c.model for c in children)) for t in m.parameters()]
    assert len(set(places)) == len(places)
    for child in children:
        assert all(parameter.grad is None for parameter in child.model.parameters())
        mine = {id(parameter) for parameter in child.model.parameters()}
        assert {id(p) for group in child.optimizer.param_groups for p in group["params"]} == mine
        assert {id(p) for p in child.optimizer.state} == mine


def test_spawning_refuses_an_optimizer_of_another_model() -> None:
    with pytest.raises(ConfigurationError, match="not the model's"):
        spawn(_network(), _optimizer("sgd", _network()))
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        spawn(_network(), _optimizer("sgd", _network()), children=0)


def test_ends_are_exact_and_the_middle_is_the_mean() -> None:
    first, second = _weights(_network(0)), _weights(_network(1))
    second["stem_norm.running_mean"] += 2
    second["stem_norm.num_batches_tracked"] += 7
    for alpha, end in ((0.0, first), (1.0, second)):
        for name, value in interpolate(first, second, alpha).items():
            if value.is_floating_point():
                assert torch.equal(value, end[name])
    quarter = interpolate(first, second, 0.25)
    for name in ("head.weight", "stem_norm.running_mean"):
        torch.testing.assert_close(quarter[name], 0.75 * first[name] + 0.25 * second[name])
    assert int(quarter["stem_norm.num_batches_tracked"]) == 0
    quarter["head.weight"].zero_()
    assert first["head.weight"].abs().sum() > 0


def test_interpolation_refuses_other_architectures() -> None:
    weights = _weights(_network())
    fewer = {name: value for name, value in weights.items() if name != "head.bias"}
    with pytest.raises(ConfigurationError, match=r"differ in head\.bias"):
        interpolate(weights, fewer, 0.5)
    with pytest.raises(ShapeError, match=r"head\.bias is \(3,\)"):
        interpolate(weights, weights | {"head.bias": torch.zeros(4)}, 0.5)
    with pytest.raises(ShapeError, match="float64"):
        interpolate(weights, weights | {"head.bias": torch.zeros(3).double()}, 0.5)


def test_recomputed_statistics_are_those_of_the_data() -> None:
    model = _network()
    x = _images(40)
    before = _weights(model)
    model.train()
    recompute_statistics(model, [x])
    seen = model.stem(x).detach()
    state = model.state_dict()
    torch.testing.assert_close(state["stem_norm.running_mean"], seen.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(state["stem_norm.running_var"], seen.var(dim=(0, 2, 3)))
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert all(module.training for module in model.modules())
    assert model.stem_norm.momentum == 0.1


def test_recomputed_statistics_average_over_batches_and_forget_the_past() -> None:
    model, x = _network(), _images(40)
    model.stem_norm.running_mean.fill_(100.0)
    recompute_statistics(model, x.split(10))
    means = [model.stem(part).mean(dim=(0, 2, 3)).detach() for part in x.split(10)]
    torch.testing.assert_close(model.stem_norm.running_mean, torch.stack(means).mean(dim=0))


def test_recomputing_leaves_dropout_off_and_modes_alone() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4))
    model[1].eval()
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) + 3
    recompute_statistics(model, [x])
    torch.testing.assert_close(model[1].running_mean, x.mean(dim=0))
    assert model[0].training
    assert not model[1].training


def test_statistics_need_batches_only_where_there_are_statistics() -> None:
    with pytest.raises(ConfigurationError, match="no batches"):
        recompute_statistics(_network(), [])
    plain = nn.Linear(3, 2)
    held = _weights(plain)
    recompute_statistics(plain, [])
    assert torch.equal(plain.weight, held["weight"])


def _score(x: Tensor) -> Callable[[nn.Module], float]:
    def score(model: nn.Module) -> float:
        assert not model.training
        assert not torch.is_grad_enabled()
        return float(model(x).sum())

    return score


def test_a_model_linear_in_its_weights_averages_without_loss() -> None:
    """The paper's reason for connectivity: without changing gradients f is linear in theta."""
    first, second = nn.Linear(5, 3), nn.Linear(5, 3)
    x = torch.randn(7, 5)
    alphas = [0.0, 0.3, 0.5, 1.0, 1.5]
    curve = interpolation_curve(
        first, _weights(first), _weights(second), alphas, _score(x), statistics="interpolated"
    )
    ends = [float(m(x).sum().detach()) for m in (first, second)]
    assert curve == pytest.approx([(1 - a) * ends[0] + a * ends[1] for a in alphas], abs=1e-4)


def test_permuted_twins_lose_accuracy_by_averaging() -> None:
    """Two networks that compute the same function and whose average does not."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
        for layer in (0, 2):
            model[layer].bias.zero_()
    first = _weights(model)
    twin = first | {
        "0.weight": first["0.weight"].flip(0),
        "2.weight": first["2.weight"].flip(1),
    }
    x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])

    def accuracy(network: nn.Module) -> float:
        return float(((network(x) > 0) == (x > 0)).float().mean())

    gap = accuracy_gap(model, first, twin, accuracy, statistics="interpolated")
    assert gap.children == (1.0, 1.0)
    assert gap.average == 0.5
    assert gap.gap == 0.5
    assert AccuracyGap((0.9, 0.7), 0.85).gap == pytest.approx(-0.05)


def test_the_choice_of_statistics_is_what_separates_the_two_curves() -> None:
    model = _network()
    first, second = _weights(_network(0)), _weights(_network(1))
    x = _images(30, seed=5)
    score = _score(x)
    stale = interpolation_curve(
        model, first, second, [0.5], score, statistics="interpolated", batches=lambda: [x]
    )
    fresh = interpolation_curve(model, first, second, [0.5], score, batches=lambda: [x])
    by_hand = _network()
    by_hand.load_state_dict(interpolate(first, second, 0.5))
    assert stale == [score_of(by_hand, score)]
    recompute_statistics(by_hand, [x])
    assert fresh == [score_of(by_hand, score)]
    assert stale != fresh


def score_of(model: nn.Module, score: Callable[[nn.Module], float]) -> float:
    model.eval()
    with torch.no_grad():
        return score(model)


def test_measuring_leaves_the_given_networks_alone() -> None:
    model = _network()
    model.train()
    first, second = _weights(_network(0)), _weights(_network(1))
    held = [copy.deepcopy(part) for part in (_weights(model), first, second)]
    accuracy_gap(model, first, second, _score(_images(5)), batches=lambda: [_images(9)])
    for part, before in zip((model.state_dict(), first, second), held, strict=True):
        assert all(torch.equal(value, before[name]) for name, value in part.items())
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": []}, "no positions"),
        ({"statistics": "guessed"}, "one of interpolated, recomputed, got 'guessed'"),
        ({"batches": None}, "pass batches"),
        ({"batches": lambda: []}, "no batches"),
    ],
)
def test_curves_refuse_what_they_cannot_use(options: dict[str, Any], message: str) -> None:
    weights = _weights(_network())
    given: dict[str, Any] = {"alphas": [0.5], "batches": lambda: [_images(9)]} | options
    alphas = given.pop("alphas")
    with pytest.raises(ConfigurationError, match=message):
        interpolation_curve(_network(), weights, weights, alphas, _score(_images(3)), **given)


def test_gradient_change_is_the_mean_squared_difference_of_autograd_s_gradients() -> None:
    model = _network().double()
    optimizer = _optimizer("sgd", model)
    x = _images(5, seed=3).double()

    def gradients(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        probe = copy.deepcopy(model)
        probe.load_state_dict(weights)
        probe.eval()
        rows = [
            torch.autograd.grad(output, probe.parameters(), retain_graph=True)
            for output in probe(x).flatten()
        ]
        names = [name for name, _ in probe.named_parameters()]
        columns = zip(*rows, strict=True)
        return {name: torch.stack(parts) for name, parts in zip(names, columns, strict=True)}

    ends = [_weights(model)]
    for seed in range(3):
        optimizer.zero_grad()
        model(_images(9, seed).double()).square().mean().backward()
        optimizer.step()
    ends.append(_weights(model))
    before, now = (gradients(weights) for weights in ends)
    found = gradient_change(model, *ends, x)
    assert list(found) == list(dict.fromkeys(name.rpartition(".")[0] for name in before))
    for layer, value in found.items():
        parts = [n for n in before if n.rpartition(".")[0] == layer]
        squares = torch.cat([(now[n] - before[n]).square().flatten() for n in parts])
        assert value == pytest.approx(float(squares.mean()), rel=1e-9)
        assert value > 0
    grouped = gradient_change(model, *ends, x, layer_of=lambda name: name.split(".")[0])
    assert list(grouped) == ["stem", "stem_norm", "stages", "head"]


def test_gradient_change_is_what_the_records_of_checkpoints_hold() -> None:
    model = _network()
    ends = [_weights(_network(seed)) for seed in (0, 1)]
    x = _images(6)
    *_, view = from_checkpoints(model, ends, {"test": x})
    for layer, value in gradient_change(model, *ends, x, chunk_size=2).items():
        assert math.isclose(value, view.metrics[f"test/gradient_change/{layer}"], rel_tol=1e-5)


def test_gradients_of_a_linear_model_do_not_change() -> None:
    model = nn.Linear(4, 2)
    ends = [_weights(nn.Linear(4, 2)) for _ in range(2)]
    assert gradient_change(model, *ends, torch.randn(3, 4), layer_of=lambda name: "all") == {
        "all": 0.0
    }


def test_gradient_change_refuses_live_and_broken_weights() -> None:
    model, x = _network(), _images(2)
    with pytest.raises(ConfigurationError, match="share memory"):
        gradient_change(model, model.state_dict(), model.state_dict(), x)
    broken = _weights(model)
    broken["head.bias"][0] = math.nan
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        gradient_change(model, _weights(model), broken, x)
