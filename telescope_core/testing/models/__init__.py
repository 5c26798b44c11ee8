"""The zoo: small models as they are met in public code, one family a file.

``ZOO`` has every model by name.  Those of :mod:`~telescope_core.testing.models.refused` carry the
error that a lens has to raise; all others have to be followed right.
"""

from telescope_core.testing.models import (
    adapters,
    attention,
    convolutions,
    custom,
    embeddings,
    experts,
    gated,
    graphs,
    hooked,
    norms,
    perceptrons,
    refused,
    sequences,
    shared,
    splines,
    state_space,
    stateful,
)
from telescope_core.testing.models.entry import Refusal, ZooModel

_FAMILIES = (
    perceptrons,
    shared,
    gated,
    sequences,
    attention,
    experts,
    convolutions,
    norms,
    embeddings,
    stateful,
    hooked,
    custom,
    adapters,
    splines,
    graphs,
    state_space,
    refused,
)

ZOO: dict[str, ZooModel] = {model.name: model for family in _FAMILIES for model in family.MODELS}

__all__ = ["ZOO", "Refusal", "ZooModel"]
