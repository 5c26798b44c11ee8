"""The shapes that signatures promise, checked at every call: one hook for all tests.

Signatures of the library name shapes by jaxtyping, which only type checkers import.  While modules
are loaded for tests their functions are wrapped: sizes of one name have to agree within a call.
"""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import beartype

#: Where shapes are promised.
MODULES = (
    "telescope_core.complexity",
    "telescope_core.kernels",
    "telescope_core.probes",
    "telescope_core.smoother.path",
)


def install() -> None:
    """Check shapes in all modules listed here, none of which may be loaded yet."""
    loaded = [name for name in MODULES if name in sys.modules]
    assert not loaded, f"shapes in {loaded} would not be checked; install the hook first"
    # Where signatures find these names, which their modules do not import.
    vars(builtins).update(Float=jaxtyping.Float, Int64=jaxtyping.Int64)
    jaxtyping.install_import_hook(MODULES, f"{__name__}.checked")


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with arguments and results held to their shapes; all other types are mypy's."""
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if _has_shape(hint)
    }
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_shape, get_args(hint)))
