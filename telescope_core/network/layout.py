"""The order in which trainable parameters are laid out in one flat vector θ.

Everything that lives in parameter space (θ itself, the columns of A, momentum buffers) is a
``(p, ...)`` array in this order.  Weights are stored with their first dimension, the output, last:
a linear layer's weight followed by its bias then reads as one ``(d_in + 1, d_out)`` matrix, and
``J·A`` becomes a single matrix product per layer (see :mod:`telescope_core.jacobians.factors`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """The rows of the flat vector that belong to one parameter tensor.

    Attributes:
        name: Qualified name of the parameter in the model.
        start: First row.
        stop: One past the last row.
        shape: Shape of the parameter in the model.
        output_last: Whether the rows run over the tensor with its first dimension moved last.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    output_last: bool

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.start, self.stop)

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.stop - self.start


class ParameterLayout:
    """Maps named parameters to rows of a flat ``(p, ...)`` array and back.

    Args:
        parameters: The parameters that are trained, by qualified name, in order.
        dtype: Floating dtype of flat arrays; ``None`` for the parameters' own, at least float32.
    """

    def __init__(self, parameters: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
        segments = []
        start = 0
        for name, parameter in parameters.items():
            stop = start + parameter.numel()
            segments.append(
                Segment(name, start, stop, tuple(parameter.shape), output_last=parameter.ndim >= 2)
            )
            start = stop
        self.segments: tuple[Segment, ...] = tuple(segments)
        self.by_name: dict[str, Segment] = {segment.name: segment for segment in segments}
        self.size: int = start
        first = next(iter(parameters.values())).dtype
        self.dtype = dtype or torch.promote_types(first, torch.float32)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Gather one tensor per parameter into a new flat vector of shape ``(p,)``."""
        return torch.cat([self.rows_of(s, tensors[s.name].detach()) for s in self.segments])

    def rows_of(self, segment: Segment, tensor: Tensor) -> Tensor:
        """One parameter-shaped tensor as flat rows of shape ``(segment.size,)``."""
        tensor = tensor.to_dense() if tensor.is_sparse else tensor
        ordered = tensor.movedim(0, -1) if segment.output_last else tensor
        return ordered.reshape(-1).to(self.dtype)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a ``(p,)`` or ``(p, m)`` array in the shapes of the parameters.

        Returns:
            Per name a tensor of shape ``(*shape,)`` or ``(*shape, m)`` that shares memory.
        """
        trailing = tuple(flat.shape[1:])
        views = {}
        for segment in self.segments:
            rows = flat[segment.rows]
            if segment.output_last:
                d_out, *rest = segment.shape
                views[segment.name] = rows.view(*rest, d_out, *trailing).movedim(len(rest), 0)
            else:
                views[segment.name] = rows.view((*segment.shape, *trailing))
        return views
