"""Networks of the case studies, each imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telescope_pipeline.study.networks.convolutional import (
        ConvolutionalNetwork as ConvolutionalNetwork,
    )
    from telescope_pipeline.study.networks.deep import DeepNetwork as DeepNetwork
    from telescope_pipeline.study.networks.mlp import MLP as MLP
    from telescope_pipeline.study.networks.polynomial import PolynomialNetwork as PolynomialNetwork
    from telescope_pipeline.study.networks.resnet import ResidualNetwork as ResidualNetwork
    from telescope_pipeline.study.networks.resnet import digits_resnet as digits_resnet
    from telescope_pipeline.study.networks.resnet import resnet20 as resnet20
    from telescope_pipeline.study.networks.transformer import Transformer as Transformer

_HOMES = {
    "MLP": "mlp",
    "PolynomialNetwork": "polynomial",
    "ResidualNetwork": "resnet",
    "digits_resnet": "resnet",
    "resnet20": "resnet",
    "DeepNetwork": "deep",
    "ConvolutionalNetwork": "convolutional",
    "Transformer": "transformer",
}

__all__ = [
    "MLP",
    "ConvolutionalNetwork",
    "DeepNetwork",
    "PolynomialNetwork",
    "ResidualNetwork",
    "Transformer",
    "digits_resnet",
    "resnet20",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
