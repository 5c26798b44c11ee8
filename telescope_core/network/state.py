"""What a model's outputs may depend on beside its trained parameters, to be compared later."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from telescope_core.network.sparse import is_sparse, values_of

# Numbers and switches on modules that say nothing about their function.
_NOT_STATE = ("training",)


@dataclass(frozen=True)
class NetworkState:
    """Marks of everything a model holds that is not trained.

    Attributes:
        marks: By name, what shows a change: identity, version and sum of a tensor, or a value.
    """

    marks: dict[str, tuple[object, ...]]

    @classmethod
    def of(cls, model: nn.Module, trained: Container[str]) -> NetworkState:
        """The state as it is now; no tensor is copied, each is read once."""
        marks: dict[str, tuple[object, ...]] = {}
        for name, parameter in model.named_parameters():
            if name not in trained:
                marks[name] = _mark(parameter)
        for name, tensor in _tensors_of(model):
            marks[name] = _mark(tensor)
        for prefix, module in model.named_modules():
            where = f"{prefix}." if prefix else ""
            for name, value in vars(module).items():
                if isinstance(value, int | float | str) and name not in _NOT_STATE:
                    marks[where + name] = (value,)
        return cls(marks)

    def changed_since(self, before: NetworkState) -> list[str]:
        """Names of what differs from an earlier state, and of what came or went."""
        names = {**before.marks, **self.marks}
        return [name for name in names if self.marks.get(name) != before.marks.get(name)]


def _mark(tensor: Tensor) -> tuple[object, ...]:
    if not tensor.numel() or tensor.is_inference() or tensor.is_complex() or tensor.is_meta:
        return (id(tensor),)
    if is_sparse(tensor):
        return (id(tensor), tuple(tensor.shape), *_mark(values_of(tensor))[1:])
    # Writing through .data leaves the version as it is; a sum sees nearly all of that.
    total = str(float(tensor.detach().sum(dtype=torch.float32)))  # NaN equals itself as text
    # The address, since an identity may be taken over by another tensor.
    return (id(tensor), tensor.data_ptr(), tensor._version, total)


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that a model holds beside its parameters, registered or not, with its name."""
    for prefix, module in model.named_modules():
        where = f"{prefix}." if prefix else ""
        for name, value in vars(module).items():
            if name in ("_parameters", "_modules"):
                continue
            entries = value.items() if name == "_buffers" else [(name, value)]
            for attribute, entry in entries:
                if isinstance(entry, Tensor) and not isinstance(entry, nn.Parameter):
                    yield where + attribute, entry
