"""The lens and the account from rows agree on some random models; tests/slow has more."""

import pytest
import torch
from hypothesis import HealthCheck, assume, event, given, settings

from support import random_models
from support.grammar import Dense, Layer, Norm, Product, Recipe, recipes
from support.random_models import follow
from telescope_core.testing import RowAccount, assert_agrees
from telescope_core.testing.columns import held_parameters, jacobian

some = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@some
@given(recipes())
def test_the_lens_agrees_with_the_account(recipe: Recipe):
    event(follow(recipe))


@pytest.mark.parametrize("norm", ["layer", "layer-plain"])
def test_a_use_outside_of_the_layer_whose_gradient_vanishes_at_first(norm):
    product = Product(inner=(Norm(kind=norm), Dense(layer=0, use="outer")))
    recipe = Recipe(layers=(Layer(bias=False),), body=(Dense(0), product), head="tied", rows=5)
    assert follow(recipe) == "followed"


def test_a_difference_is_noticed(monkeypatch):
    recipe = Recipe(body=(Dense(0, activation="tanh"),), optimizer="adamw", strategy="midpoint")
    assert follow(recipe) == "followed"

    def other(*arguments, quadrature, stride):
        assert quadrature == "midpoint"
        return RowAccount(*arguments, quadrature="trapezoid", stride=stride)

    monkeypatch.setattr(random_models, "RowAccount", other)
    with pytest.raises(AssertionError, match="smoother of train at step 2"):
        follow(recipe)


@some
@given(recipes())
def test_the_accounts_jacobian_is_that_of_finite_differences(recipe: Recipe):
    training = recipe.start()
    model, x = training.model, training.train_inputs
    parameters = held_parameters(training.optimizer)
    assume(parameters)
    generator = torch.Generator().manual_seed(recipe.seed)

    def normal(p: torch.Tensor) -> torch.Tensor:
        return torch.randn(p.shape, generator=generator, dtype=torch.float64)

    start = [p.detach() + 0.1 * normal(p) for p in parameters]  # away from kinks
    directions = [normal(p) for p in parameters]
    if recipe.stem == "embedding-padded":  # backpropagation leaves out the row of the padding
        (number,) = (i for i, p in enumerate(parameters) if p is model.embedding.weight)
        directions[number][0] = 0

    def outputs_at(distance: float) -> torch.Tensor:
        with torch.no_grad():
            for p, origin, direction in zip(parameters, start, directions, strict=True):
                p.copy_(origin + distance * direction)
            return model(x.clone()).reshape(-1).clone()

    difference = (outputs_at(1e-5) - outputs_at(-1e-5)) / 2e-5
    outputs_at(0)
    J = jacobian(model, x, parameters)
    moved = torch.cat([direction.reshape(-1) for direction in directions])
    assert_agrees(J @ moved, difference, tolerance=1e-6, what="J·d")
