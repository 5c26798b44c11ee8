"""Data sets of the case studies: generated, shipped inside a package, in a folder, or downloaded.

Each name is imported when it is first asked for, so that using one data set neither loads nor
depends on the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telescope_pipeline.study.datasets.dataset import Dataset as Dataset
    from telescope_pipeline.study.datasets.digits import load_digits as load_digits
    from telescope_pipeline.study.datasets.images import cifar10 as cifar10
    from telescope_pipeline.study.datasets.images import mnist as mnist
    from telescope_pipeline.study.datasets.images import svhn as svhn
    from telescope_pipeline.study.datasets.label_noise import flip_labels as flip_labels
    from telescope_pipeline.study.datasets.label_noise import relabel as relabel
    from telescope_pipeline.study.datasets.mnist1d import generate_mnist1d as generate_mnist1d
    from telescope_pipeline.study.datasets.modular import modular_addition as modular_addition
    from telescope_pipeline.study.datasets.polynomial import draw_polynomial as draw_polynomial
    from telescope_pipeline.study.datasets.registry import Entry as Entry
    from telescope_pipeline.study.datasets.registry import lookup as lookup
    from telescope_pipeline.study.datasets.tables import Table as Table
    from telescope_pipeline.study.datasets.tables import table as table

_HOMES = {
    "Dataset": "dataset",
    "Entry": "registry",
    "Table": "tables",
    "cifar10": "images",
    "draw_polynomial": "polynomial",
    "flip_labels": "label_noise",
    "generate_mnist1d": "mnist1d",
    "load_digits": "digits",
    "lookup": "registry",
    "mnist": "images",
    "modular_addition": "modular",
    "relabel": "label_noise",
    "svhn": "images",
    "table": "tables",
}

__all__ = [
    "Dataset",
    "Entry",
    "Table",
    "cifar10",
    "draw_polynomial",
    "flip_labels",
    "generate_mnist1d",
    "load_digits",
    "lookup",
    "mnist",
    "modular_addition",
    "relabel",
    "svhn",
    "table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
