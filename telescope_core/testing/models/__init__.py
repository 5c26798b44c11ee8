"""The zoo: small models, one family a file, all in float64 and all seeded.

``ZOO`` has models as they are met in public code, by name.  Those that carry a refusal raise that
error in a lens (most are in :mod:`~telescope_core.testing.models.refused`); all others have to be
followed right.  ``SPECIMENS`` has the plain models of short runs beside them.
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
    plain,
    refused,
    sequences,
    shared,
    splines,
    state_space,
    stateful,
)
from telescope_core.testing.models.entry import Refusal, ZooModel

# In the order in which the registry draws.
_FAMILIES = (
    *(perceptrons, shared, gated, sequences, attention, experts, convolutions, norms, embeddings),
    *(stateful, hooked, custom, adapters, splines, graphs, state_space, refused),
)

ZOO: dict[str, ZooModel] = {model.name: model for family in _FAMILIES for model in family.MODELS}
SPECIMENS: dict[str, ZooModel] = {model.name: model for model in plain.MODELS} | ZOO

__all__ = ["SPECIMENS", "ZOO", "Refusal", "ZooModel"]
