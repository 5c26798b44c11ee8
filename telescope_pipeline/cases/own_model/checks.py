"""Trying out the user's functions as far as that takes no data."""

from __future__ import annotations

from telescope_core.errors import ParametersError, TelescopeError
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.cases.own_model.training.build import build_model, make_optimizer
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
    """  # noqa: DOC501  # an interruption is nobody's problem
    settings = [case.narrowed(values, 0) for values in case.combinations()]
    found: dict[str, None] = {}
    for own in settings:
        for call in own.calls(stage):
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
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if is_interruption(error):
                raise
            # torch's own refusal, e.g. of a model without parameters.
            refused = f"got a model and settings that torch refuses: {text_of(error)}"
            found[f"optimizer: {refused}"] = None
    return list(found)
