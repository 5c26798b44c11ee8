"""What a linearised model can do, whatever way its Jacobian is represented."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from telescope_core.network.layout import ParameterLayout


@dataclass(frozen=True)
class Layers:
    """Which layer a parameter belongs to.

    Attributes:
        names: The layers, in the order of their first parameter.
        of_row: For every row of θ the position of its layer, int64, shape ``(p,)``.
    """

    names: tuple[str, ...]
    of_row: Tensor

    @property
    def count(self) -> int:
        """Number of layers."""
        return len(self.names)

    @classmethod
    def by_module(cls, layout: ParameterLayout, device: torch.device) -> Layers:
        """Every module that owns parameters is a layer."""
        owners = [owner_of(segment.name) for segment in layout.segments]
        names = tuple(dict.fromkeys(owners))
        of_row = torch.empty(layout.size, dtype=torch.int64, device=device)
        for segment, owner in zip(layout.segments, owners, strict=True):
            of_row[segment.rows] = names.index(owner)
        return cls(names, of_row)


def owner_of(parameter: str) -> str:
    """The module that owns a parameter; the parameter itself where that is the whole model."""
    return parameter.rpartition(".")[0] or parameter


_Product = TypeVar("_Product", bound=Callable[..., Tensor])


def without_autocast(device: torch.device) -> torch.autocast:
    """Switch off an autocast around the caller, which would round in matrix products."""
    return torch.autocast(device.type, enabled=False)


def in_full_precision(product: _Product) -> _Product:
    """Take a product of a linearisation without an autocast around the caller."""

    @wraps(product)
    def wrapped(self: Linearization, *arguments: Any, **options: Any) -> Tensor:
        with without_autocast(self.outputs.device):
            return product(self, *arguments, **options)

    return cast(_Product, wrapped)


class Linearization(ABC):
    r"""The model at one θ on one set of inputs, to first order in θ.

    With :math:`J` the Jacobian of the stacked outputs, of shape ``(rows * k, p)``, the three
    products below are all that the telescoping model asks for; ``J`` itself is never formed.

    Attributes:
        outputs: Network outputs ``f_θ(x)``, shape ``(rows, k)``, without gradient history.
    """

    outputs: Tensor

    @abstractmethod
    def jvp(self, directions: Tensor) -> Tensor:
        """``J · directions``: columns in parameter space, ``(p, m)``, to ``(rows, k, m)``."""

    def jvp_by_layer(self, directions: Tensor, layers: Layers) -> Tensor:
        """``J_l · directions_l`` for each layer l, shape ``(layers, rows, k, m)``."""
        pieces = []
        for position in range(layers.count):
            mask = (layers.of_row == position)[:, None]
            pieces.append(self.jvp(torch.where(mask, directions, 0.0)))
        return torch.stack(pieces)

    @abstractmethod
    def vjp(self, cotangents: Tensor, out: Tensor | None = None) -> Tensor:
        """``Jᵀ · cotangents``: columns in output space, ``(rows, k, m)``, to ``(p, m)``.

        The result is put into ``out`` if that is given.
        """

    @abstractmethod
    def gram(self, other: Linearization) -> Tensor:
        """The tangent kernel ``J · J_otherᵀ`` in one form, ``(rows, k, rows_other, k)``."""

    def gram_by_products(self, other: Linearization, columns: int | None = None) -> Tensor:
        """The same from :meth:`jvp` and :meth:`vjp`, in any form; so many columns at once."""
        rows, k = other.outputs.shape
        eye = torch.eye(rows * k, dtype=other.outputs.dtype, device=other.outputs.device)
        step = columns or rows * k
        kernel = eye.new_empty(*self.outputs.shape, rows * k)
        for start in range(0, rows * k, step):
            part = eye[:, start : start + step].reshape(rows, k, -1)
            kernel[..., start : start + step] = self.jvp(other.vjp(part))
        return kernel.view(*self.outputs.shape, rows, k)

    @abstractmethod
    def rows(self, index: Tensor) -> Linearization:
        """The linearisation of some rows, ``(b,)``, without evaluating the model again."""
