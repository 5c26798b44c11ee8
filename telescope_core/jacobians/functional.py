"""Jacobian products by ``torch.func``: slower than layer factors, right for any model."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from typing_extensions import override

from telescope_core.errors import TelescopeError
from telescope_core.jacobians.linearization import Linearization, in_full_precision
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.network.autograd import or_model_error, without_remarks
from telescope_core.network.inputs import Rows, leaves, map_rows
from telescope_core.network.layout import ParameterLayout

_T = TypeVar("_T")

_log = logging.getLogger(__name__)

# Columns pushed through the model at once; forward mode keeps about two activations per column.
_COLUMN_BUDGET_BYTES = 256 * 2**20


class FunctionalLinearization(Linearization):
    """A linearisation that pushes columns through the model with ``jvp`` and ``vjp``.

    Args:
        forward: The model as a pure function of its trained parameters and inputs.
        layout: Order of the parameters in flat arrays.
        theta: Parameters, shape ``(p,)``.
        inputs: Model inputs, first dimension rows.
        moving: Names of the parameters to differentiate with respect to; the others are held
            fixed, as if their rows of every direction were zero.  ``None`` for all.
        outputs: Network outputs, if they are known.
    """

    def __init__(
        self,
        forward: ModelFunction,
        layout: ParameterLayout,
        theta: Tensor,
        inputs: Rows,
        moving: frozenset[str] | None = None,
        outputs: Tensor | None = None,
    ) -> None:
        self._forward = forward
        self._layout = layout
        self._parameters = {
            name: value.contiguous() for name, value in layout.unflatten(theta).items()
        }
        self._moving = {
            name: value
            for name, value in self._parameters.items()
            if moving is None or name in moving
        }
        self._inputs = inputs
        if outputs is None:
            with torch.no_grad():
                outputs = forward(self._parameters, inputs).to(layout.dtype)
        self.outputs = outputs

    @in_full_precision
    @override
    def jvp(self, directions: Tensor) -> Tensor:
        columns = self._layout.unflatten(directions)
        moving = {name: columns[name] for name in self._moving}
        return self._product(
            lambda: self._jvp_at_once(moving, directions.shape[-1]),
            lambda: self._jvp_by_column(moving, directions.shape[-1]),
        )

    @in_full_precision
    @override
    def vjp(self, cotangents: Tensor, out: Tensor | None = None) -> Tensor:
        columns = self._product(
            lambda: self._vjp_at_once(cotangents), lambda: self._vjp_by_column(cotangents)
        )
        m = cotangents.shape[-1]
        result = cotangents.new_zeros(self._layout.size, m) if out is None else out.zero_()
        views = self._layout.unflatten(result)
        for name, column in columns.items():
            views[name].copy_(column.detach())
        return result

    @in_full_precision
    @override
    def gram(self, other: Linearization) -> Tensor:
        return self.gram_by_products(other, self._columns_at_once(other.outputs.numel()))

    @override
    def rows(self, index: Tensor) -> FunctionalLinearization:
        part = copy.copy(self)
        part._inputs = map_rows(self._inputs, lambda leaf: leaf[index])
        part.outputs = self.outputs[index]
        return part

    def _product(self, at_once: Callable[[], _T], by_column: Callable[[], _T]) -> _T:
        """A product by ``torch.func``, or column by column where that cannot be.

        Returns:
            What ``at_once`` gives, or else ``by_column``.

        Raises:
            ModelError: Neither can be.
            RuntimeError: The device is out of memory.
        """
        forward = self._forward
        if not forward.by_column:
            # Other operations may do where a kernel of torch does not.
            for by_formula in sorted({forward.by_formula, True}):
                forward.by_formula = by_formula
                try:
                    with without_remarks():
                        return at_once()
                except (RuntimeError, NotImplementedError) as error:
                    if isinstance(error, TelescopeError | torch.OutOfMemoryError):
                        raise
                    reason = error
        with or_model_error():
            product = by_column()
        if not forward.by_column:
            _log.info("derivatives are taken one by one, since torch.func fails: %s", reason)
            forward.by_column = True
        return product

    def _jvp_at_once(self, moving: dict[str, Tensor], m: int) -> Tensor:
        # Columns first: with out_dims=-1, vmap mishandles outputs that no column reaches.
        batched = partial(torch.func.vmap, in_dims=-1, chunk_size=self._columns_at_once(m))
        with torch.no_grad():
            try:
                pushed: Tensor = batched(self._push)(moving)
            except (NotImplementedError, RuntimeError) as error:
                if "forward AD" not in str(error):
                    raise
                pushed = batched(self._push_double_backward)(moving)
        return pushed.movedim(0, -1)

    def _vjp_at_once(self, cotangents: Tensor) -> dict[str, Tensor]:
        pull = torch.func.vjp(self._at_inputs, self._moving)[1]
        chunk = self._columns_at_once(cotangents.shape[-1])
        batched = torch.func.vmap(pull, in_dims=-1, chunk_size=chunk)
        columns: dict[str, Tensor] = batched(cotangents)[0]
        return {name: column.movedim(0, -1) for name, column in columns.items()}

    def _push(self, tangents: dict[str, Tensor]) -> Tensor:
        tangent: Tensor = torch.func.jvp(self._at_inputs, (self._moving,), (tangents,))[1]
        return tangent

    def _push_double_backward(self, tangents: dict[str, Tensor]) -> Tensor:
        """The same for operations without forward mode: ``u ↦ Jᵀu`` is linear, its vjp is J."""
        pull = torch.func.vjp(self._at_inputs, self._moving)[1]
        push = torch.func.vjp(pull, torch.zeros_like(self.outputs))[1]
        tangent: Tensor = push((tangents,))[0]
        return tangent

    def _vjp_by_column(self, cotangents: Tensor) -> dict[str, Tensor]:
        with self._graph() as (outputs, leaves):
            columns = [
                self._gradients(outputs, leaves, u.to(outputs), retain_graph=True)
                for u in cotangents.unbind(-1)
            ]
        return {n: torch.stack([column[n] for column in columns], dim=-1) for n in leaves}

    def _jvp_by_column(self, moving: dict[str, Tensor], m: int) -> Tensor:
        with self._graph() as (outputs, leaves):
            try:
                return self._pushed_by_double_backward(outputs, leaves, moving, m)
            except (RuntimeError, NotImplementedError):
                # An operation that can be differentiated once only.
                return self._pushed_by_rows(outputs, leaves, moving, m)

    @contextmanager
    def _graph(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """The outputs with their history, and the parameters that move as its leaves."""
        leaves = {n: p.detach().requires_grad_() for n, p in self._moving.items()}
        with torch.enable_grad(), self._forward.at({**self._parameters, **leaves}) as call:
            yield call(self._inputs), leaves

    def _pushed_by_double_backward(
        self, outputs: Tensor, leaves: dict[str, Tensor], moving: dict[str, Tensor], m: int
    ) -> Tensor:
        result = self.outputs.new_zeros(*self.outputs.shape, m)
        u = torch.zeros_like(outputs, requires_grad=True)
        pulled = self._gradients(outputs, leaves, u, create_graph=True)
        for column in range(m):
            terms = [(g * moving[n][..., column]).sum() for n, g in pulled.items()]
            total = torch.stack(terms).sum()
            if total.requires_grad:
                (pushed,) = torch.autograd.grad(total, u, retain_graph=True)
                result[..., column] = pushed.to(result.dtype)
        return result

    def _pushed_by_rows(
        self, outputs: Tensor, leaves: dict[str, Tensor], moving: dict[str, Tensor], m: int
    ) -> Tensor:
        """One backward pass for every output of every row."""
        result = self.outputs.new_zeros(outputs.numel(), m)
        for position, output in enumerate(outputs.flatten().unbind()):
            one = torch.ones_like(output)
            for name, row in self._gradients(output, leaves, one, retain_graph=True).items():
                result[position] += row.flatten().to(result) @ moving[name].reshape(-1, m)
        return result.view(*self.outputs.shape, m)

    @staticmethod
    def _gradients(
        outputs: Tensor, leaves: dict[str, Tensor], u: Tensor, **options: bool
    ) -> dict[str, Tensor]:
        if not outputs.requires_grad:
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        pulled = torch.autograd.grad(
            outputs, list(leaves.values()), u, allow_unused=True, **options
        )
        dense = (g.to_dense() if g is not None and g.is_sparse else g for g in pulled)
        named = zip(leaves.items(), dense, strict=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in named}

    def _at_inputs(self, moving: dict[str, Tensor]) -> Tensor:
        outputs = self._forward({**self._parameters, **moving}, self._inputs)
        return outputs.to(self._layout.dtype)

    def _columns_at_once(self, columns: int) -> int:
        entries = sum(leaf.numel() for leaf in leaves(self._inputs))
        width = max(self._layout.size, entries, self.outputs.numel())
        bytes_each = 4 * width * self._layout.dtype.itemsize
        return max(1, min(columns, _COLUMN_BUDGET_BYTES // bytes_each))
