"""Jacobian products by ``torch.func``: slower than layer factors, right for any model."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from telescope_core.inputs import Rows, leaves, map_rows
from telescope_core.jacobians.linearization import Linearization, in_full_precision
from telescope_core.jacobians.recurrent import Watch
from telescope_core.layout import ParameterLayout


class Forward(Protocol):
    """The model as a pure function."""

    def __call__(
        self, parameters: dict[str, Tensor], inputs: Rows, watch: Watch | None = None, /
    ) -> Tensor:
        """Outputs of shape ``(rows, k)``.

        Args:
            parameters: Trained parameters by name.
            inputs: Rows of input.
            watch: Sees every linear map inside recurrent modules.
        """
        ...


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
        forward: Forward,
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
    def jvp(self, directions: Tensor) -> Tensor:  # noqa: D102
        columns = self._layout.unflatten(directions)
        moving = {name: columns[name] for name in self._moving}
        chunk = self._columns_at_once(directions.shape[-1])
        batched = partial(torch.func.vmap, in_dims=-1, out_dims=-1, chunk_size=chunk)
        with torch.no_grad():
            try:
                return batched(self._push)(moving)
            except (NotImplementedError, RuntimeError) as error:
                if "forward AD" not in str(error):
                    raise
                return batched(self._push_double_backward)(moving)

    @in_full_precision
    def vjp(self, cotangents: Tensor, out: Tensor | None = None) -> Tensor:  # noqa: D102
        pull = torch.func.vjp(self._at_inputs, self._moving)[1]
        m = cotangents.shape[-1]
        batched = torch.func.vmap(
            pull, in_dims=-1, out_dims=-1, chunk_size=self._columns_at_once(m)
        )
        (columns,) = batched(cotangents)
        result = cotangents.new_zeros(self._layout.size, m) if out is None else out.zero_()
        views = self._layout.unflatten(result)
        for name, column in columns.items():
            views[name].copy_(column.detach())
        return result

    @in_full_precision
    def gram(self, other: Linearization) -> Tensor:  # noqa: D102
        rows, k = other.outputs.shape
        eye = torch.eye(rows * k, dtype=self._layout.dtype, device=self.outputs.device)
        step = self._columns_at_once(rows * k)
        kernel = eye.new_empty(*self.outputs.shape, rows * k)
        for start in range(0, rows * k, step):
            columns = eye[:, start : start + step].reshape(rows, k, -1)
            kernel[..., start : start + step] = self.jvp(other.vjp(columns))
        return kernel.view(*self.outputs.shape, rows, k)

    def rows(self, index: Tensor) -> FunctionalLinearization:  # noqa: D102
        part = object.__new__(FunctionalLinearization)
        part._forward = self._forward
        part._layout = self._layout
        part._parameters = self._parameters
        part._moving = self._moving
        part._inputs = map_rows(self._inputs, lambda leaf: leaf[index])
        part.outputs = self.outputs[index]
        return part

    def _push(self, tangents: dict[str, Tensor]) -> Tensor:
        tangent: Tensor = torch.func.jvp(self._at_inputs, (self._moving,), (tangents,))[1]
        return tangent

    def _push_double_backward(self, tangents: dict[str, Tensor]) -> Tensor:
        """The same for operations without forward mode: ``u ↦ Jᵀu`` is linear, its vjp is J."""
        pull = torch.func.vjp(self._at_inputs, self._moving)[1]
        push = torch.func.vjp(pull, torch.zeros_like(self.outputs))[1]
        tangent: Tensor = push((tangents,))[0]
        return tangent

    def _at_inputs(self, moving: dict[str, Tensor]) -> Tensor:
        outputs = self._forward({**self._parameters, **moving}, self._inputs)
        return outputs.to(self._layout.dtype)

    def _columns_at_once(self, columns: int) -> int:
        entries = sum(leaf.numel() for leaf in leaves(self._inputs))
        width = max(self._layout.size, entries, self.outputs.numel())
        bytes_each = 4 * width * self._layout.dtype.itemsize
        return max(1, min(columns, _COLUMN_BUDGET_BYTES // bytes_each))
