"""The products of a pass by backpropagation alone, from one run of it.

``Jᵀu`` is linear in ``u``, so its derivative with respect to ``u`` along a direction ``Z`` is
``J Z``, and that with respect to θ is the curvature.  Everything so comes from one recorded graph,
many columns at once, where forward mode runs the pass anew for each product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from telescope_core.network.autograd import without_remarks
from telescope_core.network.layout import ParameterLayout

# So many bytes of columns at once stay in a cache; fewer columns would be slow for other reasons.
_CACHED_BYTES = 2 * 2**20
_FEWEST = 4
_BUDGET_BYTES = 64 * 2**20


@dataclass
class Trust:
    """Whether the passes of a model may be differentiated so.

    Attributes:
        is_in_use: Whether they are; not where it failed or where forward mode disagreed.
        is_due: Whether the next pass is compared with forward mode.
    """

    is_in_use: bool = True
    is_due: bool = True


class PassGraph:
    """What autograd has recorded of a pass.

    Args:
        outputs: Outputs of the pass, ``(rows, k)``.
        after: The buffers of z after it, by name.
        z: The leaves that it started from, by name, in the order of the layout.
        layout: Order of z: trained parameters, then buffers.
        trained: How many rows of the layout are parameters.
    """

    def __init__(
        self,
        outputs: Tensor,
        after: Mapping[str, Tensor],
        z: Mapping[str, Tensor],
        layout: ParameterLayout,
        trained: int,
    ) -> None:
        self._outputs = outputs
        self._after = {name: value for name, value in after.items() if value.requires_grad}
        self._z = dict(z)
        self._theta = {n: leaf for n, leaf in z.items() if layout.by_name[n].stop <= trained}
        self._layout = layout
        self._trained = trained
        each = max(layout.size, outputs.numel()) * layout.dtype.itemsize
        fewest = min(_FEWEST, max(1, _BUDGET_BYTES // each))
        self._at_once = max(fewest, _CACHED_BYTES // each)

    def push(self, Z: Tensor) -> tuple[Tensor, Tensor]:
        """``∂(outputs, buffers afterwards)/∂z · Z``, shapes ``(rows, k, m)`` and ``(q, m)``."""
        ends = [self._outputs, *self._after.values()]
        u = [torch.zeros_like(end, requires_grad=True) for end in ends]
        pulled = self._pulled(ends, u)
        pushed = Z.new_zeros(Z.shape[1], *self._outputs.shape)
        flat = Z.new_zeros(Z.shape[1], self._layout.size)
        views = self._views(flat)
        self._products(
            pulled,
            u,
            self._views(Z.T.contiguous()),
            [pushed, *(views[name] for name in self._after)],
        )
        return pushed.movedim(0, -1), flat[:, self._trained :].T

    def pull(self, cotangents: Tensor) -> Tensor:
        """``(∂outputs/∂θ)ᵀ · cotangents`` for columns ``(rows, k, m)``, shape ``(p, m)``."""
        columns = {"": cotangents.movedim(-1, 0)}
        return self._in_theta({"": self._outputs}, columns)

    def bend(self, g: Tensor, Z: Tensor) -> Tensor:
        """``∂[(∂outputs/∂θ)ᵀ g]/∂z · Z`` with ``g`` of shape ``(rows, k)`` held, ``(p, m)``."""
        pulled = self._pulled([self._outputs], [g])
        return self._in_theta(pulled, self._views(Z.T.contiguous()))

    def _in_theta(self, ends: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> Tensor:
        """The columns of these ends, pulled back to θ, ``(p, m)``."""
        m = len(next(iter(columns.values())))
        flat = self._outputs.new_zeros(m, self._layout.size)
        views, leaves = self._views(flat), list(self._theta.values())
        self._products(ends, leaves, columns, [views[name] for name in self._theta])
        # Columns last, as arrays of parameters are laid out in memory.
        return flat[:, : self._trained].T.contiguous()

    def _views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of ``(m, p + q)`` by name, columns first."""
        return {n: each.movedim(-1, 0) for n, each in self._layout.unflatten(flat.T).items()}

    def _pulled(self, ends: Sequence[Tensor], u: Sequence[Tensor]) -> dict[str, Tensor]:
        """``Jᵀu`` with its history, by name of what it is a derivative with respect to."""
        leaves = list(self._z.values())
        found = torch.autograd.grad(ends, leaves, u, create_graph=True, allow_unused=True)
        named = zip(self._z, found, strict=True)
        return {name: each for name, each in named if each is not None and each.requires_grad}

    def _products(
        self,
        ends: Mapping[str, Tensor],
        of: Sequence[Tensor],
        columns: Mapping[str, Tensor],
        into: Sequence[Tensor],
    ) -> None:
        """Backpropagate columns of these ends, so many at once as stay in a cache."""
        for start in range(0, len(into[0]) if ends else 0, self._at_once):
            part = slice(start, start + self._at_once)
            with without_remarks():
                found = torch.autograd.grad(
                    list(ends.values()),
                    of,
                    [columns[name][part].to(end) for name, end in ends.items()],
                    is_grads_batched=True,
                    retain_graph=True,
                    allow_unused=True,
                )
            for place, each in zip(into, found, strict=True):
                if each is not None:
                    place[part] = each.detach()
