"""Trying out the user's functions as far as that takes no data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import ValidationError

from telescope_core.errors import ParametersError, TelescopeError
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.cases.own_model.training.build import build_model, make_optimizer
from telescope_pipeline.contract import Scalar
from telescope_pipeline.schemas.messages import text_of
from telescope_pipeline.study.user_calls import check_signature, is_interruption


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
    settings = [(values, case.narrowed(values, 0)) for values in case.combinations()]
    found: dict[str, None] = {}
    for values, own in settings:
        for line in _badly_called(own, stage):
            found[_located(line, case, values, lambda other: _badly_called(other, stage))] = None
    if found or stage != "train":
        return list(found)
    made: set[str] = set()
    for values, own in settings:
        ingredients = own.model_dump_json(include={"model", "optimizer"})
        if ingredients in made:
            continue
        made.add(ingredients)
        for line in _not_made(own):
            found[_located(line, case, values, _not_made)] = None
    return list(found)


def _badly_called(case: OwnModelCase, stage: str) -> list[str]:
    found = []
    for call in case.calls(stage):
        try:
            check_signature(*call)
        except ParametersError as error:
            found.append(str(error))
    return found


def _not_made(case: OwnModelCase) -> list[str]:
    try:
        make_optimizer(case, build_model(case, 0))
    except TelescopeError as error:
        return [str(error)]
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if is_interruption(error):
            raise
        # torch's own refusal, e.g. of a model without parameters.
        return [f"optimizer: got a model and settings that torch refuses: {text_of(error)}"]
    return []


def _located(
    line: str,
    case: OwnModelCase,
    values: Mapping[str, Scalar],
    trial: Callable[[OwnModelCase], list[str]],
) -> str:
    """Name the value of the sweep without which a problem is none; otherwise leave it as it is."""
    leaf = line.partition(":")[0]
    for swept, value in values.items():
        others = {name: other for name, other in values.items() if name != swept}
        try:
            remaining = trial(case.with_values(others))
        except ValidationError:
            continue  # what is not swept does not fit the rest
        if not any(other.startswith(f"{leaf}: ") for other in remaining):
            return f"sweep.{swept}[{case.sweep[swept].index(value)}]: {line}"
    return line
