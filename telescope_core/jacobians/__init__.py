"""Products with the network's Jacobian J and the tangent kernel J Jᵀ.

:class:`Linearizer` is the way in; it returns a :class:`Linearization` whose two forms (layer
factors and ``torch.func``) are interchangeable.  :class:`RowSet` does so for all rows of a set.
:func:`register_layer` teaches the factors a layer of one's own.
"""

from telescope_core.jacobians.factors import DenseFactor, EmbeddingFactor, Factor, OuterFactor
from telescope_core.jacobians.layers import Layer, register_layer
from telescope_core.jacobians.linearization import (
    Layers,
    Linearization,
    owner_of,
    without_autocast,
)
from telescope_core.jacobians.linearizer import Form, Linearizer
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.jacobians.rows import LinearizedRows, RowSet, check_representation
from telescope_core.jacobians.spot_check import spot_check

__all__ = [
    "DenseFactor",
    "EmbeddingFactor",
    "Factor",
    "Form",
    "Layer",
    "Layers",
    "Linearization",
    "LinearizedRows",
    "Linearizer",
    "ModelFunction",
    "OuterFactor",
    "RowSet",
    "check_representation",
    "owner_of",
    "register_layer",
    "spot_check",
    "without_autocast",
]
