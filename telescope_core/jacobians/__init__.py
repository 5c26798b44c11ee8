"""Products with the network's Jacobian J and the tangent kernel J Jᵀ.

:class:`Linearizer` is the way in; it returns a :class:`Linearization` whose two forms (layer
factors and ``torch.func``) are interchangeable.
"""

from telescope_core.jacobians.linearization import (
    Layers,
    Linearization,
    owner_of,
    without_autocast,
)
from telescope_core.jacobians.linearizer import Form, Linearizer
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.jacobians.spot_check import spot_check

__all__ = [
    "Form",
    "Layers",
    "Linearization",
    "Linearizer",
    "ModelFunction",
    "owner_of",
    "spot_check",
    "without_autocast",
]
