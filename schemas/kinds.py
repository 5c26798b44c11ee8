"""The kinds of case there are, and the model that validates each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from telescope_pipeline.schemas.sections import Case

# A kind is the name of a module here and of a package under cases/.
_MODELS = {
    "grokking_polynomial": "GrokkingPolynomialCase",
    "double_descent": "DoubleDescentCase",
    "approximation_quality": "ApproximationQualityCase",
    "boosting_vs_networks": "BoostingVsNetworksCase",
    "grokking_network": "GrokkingNetworkCase",
    "weight_averaging": "WeightAveragingCase",
    "design_choices": "DesignChoicesCase",
    "depth": "DepthCase",
    "convolutional_network": "ConvolutionalNetworkCase",
    "modular_addition": "ModularAdditionCase",
    "own_model": "OwnModelCase",
}


class _Kinds(Mapping[str, type[Case]]):
    """Imports a kind's schema when it is asked for.

    A stage depends on the schema of its own kind only: the import is by name, so that a change of
    one kind's schema leaves the stages of the others alone.
    """

    def __getitem__(self, kind: str) -> type[Case]:
        module = import_module(f"telescope_pipeline.schemas.{kind}") if kind in _MODELS else None
        if module is None:
            raise KeyError(kind)
        model: type[Case] = getattr(module, _MODELS[kind])
        return model

    def __iter__(self) -> Iterator[str]:
        return iter(_MODELS)

    def __len__(self) -> int:
        return len(_MODELS)

    def __contains__(self, kind: object) -> bool:
        return kind in _MODELS


KINDS: Mapping[str, type[Case]] = _Kinds()
