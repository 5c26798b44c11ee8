"""Data sets of the case studies: generated, or shipped inside an installed package.

Each name is imported when it is first asked for, so that using one data set neither loads nor
depends on the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telescope_core.data.dataset import Dataset as Dataset
    from telescope_core.data.digits import load_digits as load_digits
    from telescope_core.data.label_noise import flip_labels as flip_labels
    from telescope_core.data.mnist1d import generate_mnist1d as generate_mnist1d
    from telescope_core.data.polynomial import draw_polynomial as draw_polynomial

_HOMES = {
    "Dataset": "dataset",
    "draw_polynomial": "polynomial",
    "flip_labels": "label_noise",
    "generate_mnist1d": "mnist1d",
    "load_digits": "digits",
}

__all__ = ["Dataset", "draw_polynomial", "flip_labels", "generate_mnist1d", "load_digits"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
