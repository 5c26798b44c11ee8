"""The property that random models are drawn for: the lens agrees with the account from rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from support.grammar import SQUARED, Recipe
from support.runs import attached
from telescope_core.errors import TelescopeError
from telescope_core.lens import TelescopeLens
from telescope_core.testing import FrozenKernelOracle, RowAccount, Training, assert_agrees

_LARGE = 1e6
_PREDICTED = ("predictions", "telescoped", "linearized")


def follow(recipe: Recipe) -> str:
    """Train inside the account and inside the lens and compare them, half-way and at the end.

    Returns:
        "followed"; "refused" for a recipe whose outputs depend on no trained parameter, the only
        ones that may be; "diverges" for one whose numbers are too large to be compared.

    Raises:
        AssertionError: They differ, or the inputs were changed, or nothing is trained and the lens
            did not say so.
        TelescopeError: The lens refused.
    """
    twin = recipe.start()
    if not twin.model(twin.train_inputs.clone()).requires_grad:
        try:
            _attach_lens(recipe, twin)
        except TelescopeError:
            return "refused"
        raise AssertionError("outputs depend on no trained parameter, and the lens accepts it")
    account = attached(RowAccount, twin, quadrature=recipe.quadrature, stride=recipe.stride)
    expected = list(_readings(recipe, twin, account))
    if any(float(x.abs().nan_to_num(_LARGE).max()) >= _LARGE for _, x in expected):
        return "diverges"

    training = recipe.start()
    kept = [rows.clone() for rows in _inputs(training)]
    lens = _attach_lens(recipe, training)
    frozen: dict[str, Tensor] = {}
    for (what, wanted), (_, actual) in zip(
        expected, _readings(recipe, training, lens), strict=True
    ):
        if lens.strategy == "function-space" and not what.startswith(_PREDICTED):
            frozen = frozen or dict(_with_frozen_kernels(recipe))
            wanted = frozen[what]
        assert_agrees(actual, wanted, tolerance=1e-8, what=what)
    for before, now in zip(kept, _inputs(training), strict=True):
        assert torch.equal(before, now), "the lens changed the inputs"
    return "followed"


def _attach_lens(recipe: Recipe, training: Training) -> TelescopeLens:
    lens: TelescopeLens = attached(
        TelescopeLens,
        training,
        order=recipe.order,
        stride=recipe.stride,
        probes="exact",
        form=recipe.form,
        strategy=recipe.strategy,
    )
    return lens


def _inputs(training: Training) -> tuple[Tensor, ...]:
    return (training.train_inputs, *training.eval_sets.values())


def _readings(recipe: Recipe, training: Training, observer: Any) -> Iterator[tuple[str, Tensor]]:
    """Train, and read half-way and at the end everything that has a meaning for the recipe."""
    quantities = [*_PREDICTED, "smoother"] + ["constant"] * (recipe.loss in SQUARED)
    for moment in (recipe.steps // 2, recipe.steps):
        training.run(observer, steps=moment - training.done)
        for quantity, name in itertools.product(quantities, ("train", "test")):
            yield f"{quantity} of {name} at step {moment}", getattr(observer, quantity)(name)


def _with_frozen_kernels(recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """The same by the dense oracle of the function-space engine, on copies of the inputs."""
    training = recipe.start()
    model, training.model = training.model, nn.Identity()
    training.model.forward = lambda x: model(x.clone())  # type: ignore[method-assign]
    training.model.inner = model
    options = {"order": recipe.order, "stride": recipe.stride}
    oracle = attached(FrozenKernelOracle, training, **options)
    return _readings(recipe, training, oracle)
