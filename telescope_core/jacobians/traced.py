"""Jacobian products from layer factors (docs/mathematics.md, section 7)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from telescope_core.errors import ModelError
from telescope_core.jacobians.factors import Factor
from telescope_core.jacobians.functional import FunctionalLinearization
from telescope_core.jacobians.layers import Layer
from telescope_core.jacobians.linearization import Layers, Linearization, in_full_precision
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.jacobians.recurrent import Tap
from telescope_core.network.autograd import leaves_behind, or_model_error
from telescope_core.network.inputs import Rows
from telescope_core.network.layout import ParameterLayout


class UnfitFactorsError(Exception):
    """A layer was called with shapes that its factors are not made for; never leaves the package.

    Attributes:
        names: Its parameters.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(", ".join(sorted(layer.names)))
        self.names = layer.names


Signature = tuple[Any, ...]
"""Number of rows, and the shapes of what the layers were called with."""


class TracedLinearization(Linearization):
    """A linearisation from one forward pass and one backward pass per output.

    Parameters of layers without factors (single recurrent cells, fused attention projections, bare
    ``nn.Parameter``) go through ``torch.func``, with all others held fixed.

    Attributes:
        layers: The layers whose factors are used.
        signature: Which layers were called with inputs and outputs of which shapes.
    """

    def __init__(
        self,
        forward: ModelFunction,
        layers: Sequence[Layer],
        layout: ParameterLayout,
        theta: Tensor,
        inputs: Rows,
    ) -> None:
        self._layout = layout
        self.outputs, self._factors, rest, self.signature = _trace(
            forward, layers, layout, theta, inputs
        )
        self.layers = tuple(layers)
        self._rest: FunctionalLinearization | None = None
        if rest:
            self._rest = FunctionalLinearization(forward, layout, theta, inputs, rest, self.outputs)

    @in_full_precision
    @override
    def jvp(self, directions: Tensor) -> Tensor:
        if self._rest is None:
            result = self.outputs.new_zeros(*self.outputs.shape, directions.shape[-1])
        else:
            result = self._rest.jvp(directions).contiguous()
        for factor in self._factors:
            factor.add_jvp(result, directions[factor.rows_in_theta])
        return result

    @in_full_precision
    @override
    def jvp_by_layer(self, directions: Tensor, layers: Layers) -> Tensor:
        if self._rest is None:
            shape = (layers.count, *self.outputs.shape, directions.shape[-1])
            result = self.outputs.new_zeros(shape)
        else:
            result = self._rest.jvp_by_layer(directions, layers)
        for factor in self._factors:
            # A factor covers parameters of one module, hence of one layer.
            layer = int(layers.of_row[factor.rows_in_theta.start])
            factor.add_jvp(result[layer], directions[factor.rows_in_theta])
        return result

    @in_full_precision
    @override
    def vjp(self, cotangents: Tensor, out: Tensor | None = None) -> Tensor:
        result = out
        if result is None:
            result = cotangents.new_empty(self._layout.size, cotangents.shape[-1])
        if self._rest is not None:
            self._rest.vjp(cotangents, out=result)
        elif not self._covers_everything:
            result.zero_()
        written: set[int] = set()
        for factor in self._factors:
            start = factor.rows_in_theta.start
            factor.add_vjp(result[factor.rows_in_theta], cotangents, beta=int(start in written))
            written.add(start)
        return result

    @property
    def _covers_everything(self) -> bool:
        """Whether every parameter belongs to some factor."""
        rows = {(f.rows_in_theta.start, f.rows_in_theta.stop) for f in self._factors}
        covered: int = sum(stop - start for start, stop in rows)
        return covered == self._layout.size

    @in_full_precision
    @override
    def gram(self, other: Linearization) -> Tensor:
        if not isinstance(other, TracedLinearization):
            raise TypeError(f"gram needs two linearisations of one form, got {type(other)}")
        if self.layers != other.layers:
            # A layer may have factors in one of them only.
            return self.gram_by_products(other)
        (rows, k), (others, _) = self.outputs.shape, other.outputs.shape
        kernel = self.outputs.new_zeros(rows * k, others * k)
        if self._rest is not None and other._rest is not None:
            kernel += self._rest.gram(other._rest).view(kernel.shape)
        for mine in self._factors:
            for its in other._factors:
                # A layer used several times meets itself in every pair of its uses.
                if mine.rows_in_theta == its.rows_in_theta:
                    mine.add_gram(kernel, its)
        return kernel.view(rows, k, others, k)

    @override
    def rows(self, index: Tensor) -> TracedLinearization:
        part = copy.copy(self)
        part.outputs = self.outputs[index]
        part._factors = [factor.select(index) for factor in self._factors]
        part._rest = None if self._rest is None else self._rest.rows(index)
        return part


@dataclass
class _Use:
    """One use of a layer: its input and output, at every step if it is recurrent."""

    layer: Layer
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def tap(self, x: Tensor, z: Tensor) -> Tensor:
        """Keep one pair, and return an output to which derivatives can be taken."""
        z = z if z.requires_grad else z.detach().requires_grad_()
        self.inputs.append(x.detach())
        self.outputs.append(z)
        return z


def _trace(
    forward: ModelFunction,
    layers: Sequence[Layer],
    layout: ParameterLayout,
    theta: Tensor,
    inputs: Rows,
) -> tuple[Tensor, list[Factor], frozenset[str], Signature]:
    """Run the model once forward and once backward per output.

    Returns:
        The outputs, ``(rows, k)``, the factors of every use of every layer, names of the parameters
        that the outputs depend on and no layer covers, and what the layers were called with.
    """
    uses: list[_Use] = []
    maps = {(layer.module, layer.weight_name): layer for layer in layers}
    covered = {name for layer in layers for name in layer.names}
    # A backward pass may run a checkpointed part of the model again.
    is_forward = True

    def watch(module: nn.Module, weight_name: str) -> Tap | None:
        layer = maps.get((module, weight_name))
        if layer is None:
            return None
        use = _Use(layer)
        if is_forward:
            uses.append(use)
        return use.tap

    def hook(
        layer: Layer, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor:
        use = _Use(layer)
        if is_forward:
            uses.append(use)
        x = args[0] if args else next(iter(kwargs.values()))
        # A copy, so that an activation working in place cannot overwrite z.
        return use.tap(x, output).clone()

    parameters = {name: p.detach() for name, p in layout.unflatten(theta).items()}
    uncovered = {n: p.requires_grad_() for n, p in parameters.items() if n not in covered}
    with torch.enable_grad(), forward.at(parameters, watch) as call:
        for layer in layers:
            if not isinstance(layer.module, nn.RNNBase):
                # Before the user's own, which may change the output; it goes with the copies.
                layer.module.register_forward_hook(
                    partial(hook, layer), prepend=True, with_kwargs=True
                )
        outputs = call(inputs)
        is_forward = False
        rest = _reached(outputs, uncovered)
        places = [z for use in uses for z in use.outputs]
        k = outputs.shape[1]
        with or_model_error():
            pulled = [
                torch.autograd.grad(
                    outputs[:, j].sum(), places, retain_graph=j + 1 < k, allow_unused=True
                )
                if places
                else ()
                for j in range(k)
            ]
        # While the layers hold these parameters, which their factors may depend on.
        with torch.no_grad():
            factors = list(_factors(uses, pulled, len(outputs), layout.dtype))
    signature = tuple(
        (use.layer.weight_name, id(use.layer.module), x.shape, z.shape)
        for use in uses
        for x, z in zip(use.inputs, use.outputs, strict=True)
    )
    return outputs.detach().to(layout.dtype), factors, rest, (len(outputs), *signature)


def _factors(
    uses: Sequence[_Use], pulled: Sequence[tuple[Tensor, ...]], rows: int, dtype: torch.dtype
) -> Iterator[Factor]:
    """Factors of every use of every layer."""
    start, k = 0, len(pulled)
    for use in uses:
        stop = start + len(use.outputs)
        x = _over_steps(use.inputs)
        columns = [
            _over_steps(
                [
                    torch.zeros_like(z) if g is None else g
                    for z, g in zip(use.outputs, gradients[start:stop], strict=True)
                ]
            )
            for gradients in pulled
        ]
        # Stacking would copy the only one.
        delta = (columns[0][None] if k == 1 else torch.stack(columns)).to(dtype)
        start = stop
        if not x.numel():
            continue  # Called with no rows, as an expert may be.
        per_row = (rows, -1) if delta.shape[1] != rows else (rows,)
        try:
            delta = delta.view(k, *per_row, *delta.shape[2:]).transpose(0, 1).contiguous()
            x = x.to(dtype) if x.is_floating_point() else x
            yield from use.layer.factors(x, delta)
        except (RuntimeError, ValueError, IndexError) as error:
            if use.layer.is_registered:
                raise ModelError(
                    f"the factors registered for {type(use.layer.module).__name__} fail on inputs "
                    f"of shape {tuple(x.shape)} and δ of shape {tuple(delta.shape)}: {error}; "
                    "correct them, or use form='functional'"
                ) from error
            raise UnfitFactorsError(use.layer) from error


def _reached(outputs: Tensor, leaves: dict[str, Tensor]) -> frozenset[str]:
    """Names of the leaves that the outputs depend on."""
    reached = {id(leaf) for leaf in leaves_behind(outputs)} if leaves else set()
    return frozenset(name for name, leaf in leaves.items() if id(leaf) in reached)


def _over_steps(tensors: list[Tensor]) -> Tensor:
    """The only tensor, or one for each step of a sequence along the second dimension."""
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors, dim=1)
