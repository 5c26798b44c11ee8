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

__all__ = ["Form", "Layers", "Linearization", "Linearizer", "owner_of", "without_autocast"]
