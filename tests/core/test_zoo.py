"""Every model of the zoo is followed right, or refused by name."""

import copy
from contextlib import nullcontext

import pytest

from support.left_alone import Watch
from support.runs import attached
from telescope_core import from_checkpoints, tangent_kernel
from telescope_core.connectivity import gradient_change
from telescope_core.errors import ModelError
from telescope_core.lens import TelescopeLens
from telescope_core.testing import assert_agrees
from telescope_core.testing.columns import call, jacobian
from telescope_core.testing.models import ZOO
from telescope_core.testing.recipes import LOSSES, OPTIMIZERS
from telescope_core.testing.registry import (
    TOLERANCE,
    Cell,
    compare,
    compare_predictions,
    parameters_of,
    registry,
    require_refusal,
)

FOLLOWED = [model for model in ZOO.values() if model.refused is None]
REFUSED = [model for model in ZOO.values() if model.refused is not None]
REFUSED_WITHOUT_PROBES = [m for m in ZOO.values() if m.refused_without_probes is not None]
# After a forward pass these hold tensors with a graph, which Python cannot copy.
HOLD_GRAPHS = ["hook-watches", "keeps-activations"]
PREDICTED_ONLY = [m for m in REFUSED if m.refused_without_probes is None and m.reference]


def attach(run, cell, probes="exact"):
    return attached(
        TelescopeLens,
        run,
        order=cell.order,
        stride=cell.stride,
        probes=probes,
        strategy="auto" if probes is None else cell.strategy,
    )


def attach_for_predictions(run, cell):
    return attach(run, cell, probes=None)


def cells():
    """One cell a model, in turn one with a quadratic loss and one with another."""
    every = registry(2)
    half = len(every) // 2
    return [every[number + half * (number % 2)] for number in range(half)]


def test_the_zoo_is_large_and_the_registry_covers_it():
    assert len(ZOO) >= 60
    followed = {model.name for model in ZOO.values() if model.refused is None}
    assert {cell.model for cell in cells()} == followed
    quadratic = {"mse", "half-squared"}
    for number, losses in enumerate((quadratic, LOSSES.keys() - quadratic)):
        half = registry(2)[number * len(followed) : (number + 1) * len(followed)]
        assert {cell.model for cell in half} == followed
        assert {cell.loss for cell in half} <= losses
    assert {cell.optimizer for cell in cells()} == set(OPTIMIZERS)


@pytest.mark.parametrize("cell", cells(), ids=str)
def test_every_model_is_followed_right(cell):
    compare(cell, attach)


@pytest.mark.parametrize("model", FOLLOWED, ids=lambda model: model.name)
def test_kernel_and_checkpoints_of_every_model(model):
    """They are right, and leave the model that they are given as it was."""
    run = Cell(model.name, "sgd", "mse").start()
    rows, weights, expected = run.eval_sets["test"], [], []
    for _ in range(3):
        weights.append(copy.deepcopy(run.model.state_dict()))
        plain = model.plain_model()
        plain.load_state_dict(weights[-1])
        parameters = [p for p in plain.parameters() if p.requires_grad]
        J = jacobian(plain, rows, parameters)
        expected.append((call(plain, rows).detach().reshape(len(J)), J, parameters_of(plain)))
        run.run(steps=1)
    run.model.load_state_dict(weights[-1])
    watch = Watch(run)
    kernel, (_, J, _) = tangent_kernel(run.model, rows), expected[-1]
    watch.unchanged("tangent_kernel")
    assert_agrees(kernel.flatten(0, 1).flatten(1), J @ J.T, tolerance=TOLERANCE, what="the kernel")
    not_copied = model.name in HOLD_GRAPHS or model.refused_as_copy
    with pytest.raises(ModelError) if not_copied else nullcontext():
        gradient_change(run.model, *weights[:2], rows)
    watch.unchanged("gradient_change")
    views = from_checkpoints_of(model, run.model, weights, rows)
    watch.unchanged("from_checkpoints")
    f, J, theta = expected[0]
    for view, (f_now, J_now, theta_now) in zip(views, expected, strict=bool(views)):
        f, J, theta = f + (J + J_now) @ (theta_now - theta) / 2, J_now, theta_now
        for what, actual, wanted in (
            ("outputs", view.predictions("test"), f_now),
            ("telescoped", view.telescoped("test"), f),
        ):
            assert_agrees(actual.reshape(-1), wanted, tolerance=TOLERANCE, what=what)


def from_checkpoints_of(model, used, weights, rows):
    """Views of all checkpoints, or none if a copy is refused as it should be."""
    refusal = model.refused_as_copy
    if model.name in HOLD_GRAPHS:
        with pytest.raises(ModelError):
            list(from_checkpoints(used, weights, {"test": rows}))
        used = model.model()
    if refusal is None:
        return list(from_checkpoints(used, weights, {"test": rows}))
    with pytest.raises(refusal.errors, match=refusal.pattern):
        list(from_checkpoints(used, weights, {"test": rows}))
    return []


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.name)
def test_what_cannot_be_followed_is_refused_by_name(model):
    require_refusal(model, model.refused, attach)


@pytest.mark.parametrize("model", REFUSED_WITHOUT_PROBES, ids=lambda model: model.name)
def test_so_it_is_for_predictions(model):
    require_refusal(model, model.refused_without_probes, attach_for_predictions)


@pytest.mark.parametrize("model", PREDICTED_ONLY, ids=lambda model: model.name)
def test_predictions_do_not_need_the_gradients_of_training(model):
    compare_predictions(model, attach_for_predictions)
