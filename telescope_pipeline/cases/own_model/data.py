"""The user's data, one file for each seed and each setting of the data."""

from __future__ import annotations

from telescope_core.seeds import derive_seed
from telescope_pipeline.cases.own_model.calls import call, seed_generators, user_seed
from telescope_pipeline.cases.own_model.names import file_stem, set_names
from telescope_pipeline.cases.own_model.schema import OwnModelCase
from telescope_pipeline.cases.own_model.sets import check_sets
from telescope_pipeline.contract import Prepared


def prepare(case: OwnModelCase, seed: int) -> Prepared:
    """Call the user's function for every file.

    Args:
        case: The case's parameters.
        seed: The run's seed.

    Returns:
        The tensors as the function gave them, and what was asked of it.

    Raises:
        ParametersError: The function cannot be imported, fails or returns something else.
        DataError: What it returns cannot be trained on.
    """
    files, cards = {}, {}
    for values in case.combinations():
        for replicate in range(case.seeds):
            stem = file_stem(values, replicate)
            if stem in files:
                continue
            own = case.narrowed(values, replicate)
            drawn = user_seed(derive_seed(seed, "own_model", "data", replicate))
            seed_generators(drawn)
            reference, options = own.data.call, own.data.options
            returned = call("data.call", reference, drawn, **options)
            tensors = check_sets(returned, own.loss, f"data.call: {reference}")
            files[stem] = tensors
            cards[stem] = {
                "call": reference,
                "options": own.data.model_dump(mode="json")["options"],
                "seed": drawn,
                "rows": {name: len(tensors[f"{name}_inputs"]) for name in set_names(tensors)},
            }
    return Prepared(files, {"name": case.data.call, "files": cards})
