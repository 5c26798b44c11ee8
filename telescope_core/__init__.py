"""Telescope: what a neural network has learned, step by step.

The library implements "Deep Learning Through A Telescoping Lens" (arXiv 2411.00247).  Names are
loaded on first use, so importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telescope_core.checkpoints import from_checkpoints as from_checkpoints
    from telescope_core.errors import TelescopeError as TelescopeError
    from telescope_core.kernels import TangentKernel as TangentKernel
    from telescope_core.kernels import tangent_kernel as tangent_kernel
    from telescope_core.lens import TelescopeLens as TelescopeLens
    from telescope_core.snapshot import Snapshot as Snapshot

_HOMES = {
    "TelescopeLens": "telescope_core.lens",
    "Snapshot": "telescope_core.snapshot",
    "TelescopeError": "telescope_core.errors",
    "from_checkpoints": "telescope_core.checkpoints",
    "TangentKernel": "telescope_core.kernels",
    "tangent_kernel": "telescope_core.kernels",
}

__all__ = [
    "Snapshot",
    "TangentKernel",
    "TelescopeError",
    "TelescopeLens",
    "from_checkpoints",
    "tangent_kernel",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
