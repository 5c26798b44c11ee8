"""Trying out the user's functions as far as that takes no data."""

from __future__ import annotations

from collections.abc import Iterator

from telescope_core.errors import ParametersError, TelescopeError
from telescope_pipeline.cases.own_model.calls import build_model, check_signature, make_optimizer
from telescope_pipeline.cases.own_model.schema import LOSSES, OwnModelCase, OwnOptimizer


def problems(case: OwnModelCase, stage: str) -> list[str]:
    """Say what is wrong with the functions that a stage calls.

    Functions are imported and their signatures compared with the call.  If all is well and the
    stage trains, model and optimizer are made for every setting of the sweep.

    Args:
        case: The case.
        stage: A stage, e.g. ``"train"``.

    Returns:
        A line per problem, each starting with the leaf.
    """
    settings = [case.narrowed(values, 0) for values in case.combinations()]
    found: dict[str, None] = {}
    for own in settings:
        for call in _calls(own, stage):
            try:
                check_signature(*call)
            except ParametersError as error:
                found[str(error)] = None
    if found or stage != "train":
        return list(found)
    made: set[str] = set()
    for own in settings:
        ingredients = own.model_dump_json(include={"model", "optimizer"})
        if ingredients in made:
            continue
        made.add(ingredients)
        try:
            make_optimizer(own, build_model(own, 0))
        except TelescopeError as error:
            found[str(error)] = None
        except (TypeError, ValueError) as error:
            # torch's own refusal, e.g. of a model without parameters.
            found[f"optimizer: got a model and settings that torch refuses: {error}"] = None
    return list(found)


def _calls(
    case: OwnModelCase, stage: str
) -> Iterator[tuple[str, str, tuple[str, ...], dict[str, object]]]:
    if stage == "prepare":
        yield "data.call", case.data.call, ("seed",), case.data.options
    if stage != "train":
        return
    yield "model.call", case.model.call, ("seed",), case.model.options
    if case.loss not in LOSSES:
        yield "loss", case.loss, ("outputs", "targets"), {}
    if isinstance(case.optimizer, OwnOptimizer):
        yield "optimizer.call", case.optimizer.call, ("model",), case.optimizer.options
    for name, reference in case.training.metrics.items():
        yield f"training.metrics.{name}", reference, ("outputs", "targets"), {}
