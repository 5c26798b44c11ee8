"""The model as a function of its flat trained parameters, in the precision to follow it in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from telescope_core.errors import ModelError
from telescope_core.jacobians.linearization import without_autocast
from telescope_core.jacobians.recurrent import Watch, recurrent_modules, unrolled
from telescope_core.network import Network
from telescope_core.network.autograd import or_model_error, without_checkpoints
from telescope_core.network.differentiable import (
    INSTEAD_OF_KERNELS,
    INSTEAD_OF_STATISTICS,
    Instead,
)
from telescope_core.network.inputs import Rows, count_rows
from telescope_core.network.layout import ParameterLayout
from telescope_core.network.outputs import described

Call = Callable[[Rows], Tensor]
"""``rows of input -> outputs (rows, k)``."""


class ModelFunction:
    """Outputs at any θ, without a trace in the model (:class:`telescope_core.network.Network`).

    A model in half precision is evaluated in the layout's precision (float32), at the values that
    its parameters hold: the rounding of its own kernels is noise of training, not a part of the
    function, and would drown the second order of the telescoping model.  A model whose forward
    insists on half precision (hard-coded casts) is evaluated as it computes.  For the same reason
    an autocast around the caller is switched off; one inside the model's forward is its own.

    Attributes:
        parameters: The model's own trained parameters, by name; buffers of the layout are not among
            them.
        k: Number of outputs per row.
        output_shape: Shape of one row of the model's output; ``()`` for outputs of shape (rows,).
        precision: The coarsest precision that this function computes in.
        by_formula: Whether some kernels of torch are put into other operations, for ``torch.func``.
        is_raised: Whether a model in half precision is evaluated in the layout's.
        by_column: Whether ``torch.func`` fails on it.

    Raises:
        ModelError: The outputs are not one tensor with a row for each input.
    """

    def __init__(self, network: Network, layout: ParameterLayout, sample: Rows) -> None:
        self.network = network
        self.layout = layout
        held = dict(network.module.named_parameters())
        # Looked up once: whoever follows training sees to it that they stay the same.
        self.parameters: dict[str, Tensor] = {n: held[n] for n in layout.by_name if n in held}
        self._buffers = [name for name in layout.by_name if name not in held]
        self._dtypes = {name: tensor.dtype for name, tensor in self._held().items()}
        self._recurrent = recurrent_modules(network.module)
        self.is_raised = False
        self.by_formula = self.by_column = False
        with torch.no_grad(), network.at() as call:
            outputs = call(sample)
        rows = count_rows(sample)
        if not isinstance(outputs, Tensor) or outputs.ndim < 1 or len(outputs) != rows:
            raise ModelError(
                f"the model returned {described(outputs)} for {rows} rows of input; expected one "
                "tensor whose first dimension is the rows: name it by output=, or wrap the model "
                "(positions flattened into rows? output=lambda f: f.reshape(-1, positions, k))"
            )
        self.output_shape: tuple[int, ...] = tuple(outputs.shape[1:])
        self.k: int = outputs[0].numel()
        self.is_raised = self._runs_in_full_precision(sample)
        self.precision: torch.dtype = self._coarsest(sample)

    @contextmanager
    def at(self, parameters: Mapping[str, Tensor], watch: Watch | None = None) -> Iterator[Call]:
        """The model at trained parameters, in kernels that have every derivative."""
        with (
            self.native(parameters) as call,
            _differentiable_kernels(),
            _in_formulas() if self.by_formula else nullcontext(),
            unrolled(self._recurrent, watch),
        ):
            yield call

    @contextmanager
    def native(self, parameters: Mapping[str, Tensor]) -> Iterator[Call]:
        """The same in the kernels that training runs."""
        # Contiguous as in the model itself: another memory layout rounds differently, which is
        # enough to put a unit on the other side of a kink.
        cast = {n: self.cast(n, value).contiguous() for n, value in parameters.items()}
        with self._standing_in(cast, self.raised) as call:
            yield call

    @contextmanager
    def in_precision(
        self, parameters: Mapping[str, Tensor], precision: torch.dtype
    ) -> Iterator[Call]:
        """The same with everything that the model holds or is given in one precision."""

        def raised(tensor: Tensor) -> Tensor:
            return tensor.to(precision) if tensor.is_floating_point() else tensor

        cast = {name: raised(value).contiguous() for name, value in parameters.items()}
        with self._standing_in(cast, raised) as call:
            yield call

    @contextmanager
    def _standing_in(
        self, parameters: Mapping[str, Tensor], raised: Callable[[Tensor], Tensor]
    ) -> Iterator[Call]:
        device = next(iter(parameters.values())).device
        # Running statistics have no derivative in torch's own kernels.
        statistics = Instead(INSTEAD_OF_STATISTICS) if self._buffers else nullcontext()
        at = self.network.at(parameters, raised)
        with without_autocast(device), at as call, statistics:
            yield lambda rows: _flat(call(rows))

    def leaves(self, theta: Tensor) -> dict[str, Tensor]:
        """Copies of θ's parameters by name, to take derivatives with respect to."""
        views = self.layout.unflatten(theta)
        return {name: view.detach().clone().requires_grad_() for name, view in views.items()}

    @contextmanager
    def as_trained(
        self, autocast: torch.autocast | None = None
    ) -> Iterator[tuple[Callable[[Rows], Any], dict[str, Tensor]]]:
        """The model with its very own parameters, and those of them that require gradients.

        Yields:
            ``rows -> outputs`` in the model's own shape, and the parameters.
        """
        own: dict[str, Tensor] = {n: p for n, p in self.parameters.items() if p.requires_grad}
        device = next(iter(self.parameters.values())).device
        with autocast or without_autocast(device), self.network.at() as call:
            yield call, own

    def pulled(
        self, value: Tensor, leaves: Mapping[str, Tensor], cotangent: Tensor | None = None
    ) -> Tensor:
        """Backpropagate to parameters by name; 0 for those not reached, shape ``(p,)``."""
        result = torch.zeros(self.layout.size, dtype=self.layout.dtype, device=value.device)
        if not value.requires_grad:
            return result
        with or_model_error():
            gradients = torch.autograd.grad(
                value, list(leaves.values()), cotangent, allow_unused=True
            )
        views = self.layout.unflatten(result)
        for name, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                views[name].copy_(gradient.to_dense() if gradient.is_sparse else gradient)
        return result

    def __call__(self, parameters: Mapping[str, Tensor], inputs: Rows) -> Tensor:
        """Outputs at trained parameters, shape ``(rows, k)``, in the model's dtype."""
        with self.at(parameters) as call:
            return call(inputs)

    def outputs(self, theta: Tensor, inputs: Rows) -> Tensor:
        """Outputs at ``theta`` of shape ``(p,)``, in the layout's dtype without history."""
        with torch.no_grad():
            outputs = self(self.layout.unflatten(theta), inputs)
        return outputs.to(self.layout.dtype)

    def theta(self) -> Tensor:
        """A copy of the model's trained parameters as they are now, shape ``(p,)``."""
        return self.layout.flatten(self._held())

    def _held(self) -> dict[str, Tensor]:
        """What the layout names, as the model holds it now."""
        module = self.network.module
        return {**self.parameters, **{name: module.get_buffer(name) for name in self._buffers}}

    def gradient(self) -> Tensor:
        """The gradient now stored in the trained parameters, 0 where there is none, ``(p,)``."""
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in self._held().items()
        }
        return self.layout.flatten(gradients)

    def frozen_rows(self) -> list[slice]:
        """Rows of θ whose parameters do not require a gradient now."""
        held = self._held()
        return [s.rows for s in self.layout.segments if not held[s.name].requires_grad]

    def cast(self, name: str, value: Tensor) -> Tensor:
        """What stands in for a parameter or buffer, in the precision to evaluate the model in."""
        return value if self.is_raised else value.to(self._dtypes[name])

    def raised(self, tensor: Tensor) -> Tensor:
        """Anything else that the model holds or is given, in that precision."""
        return tensor.to(self.layout.dtype) if self.is_raised and _is_half(tensor) else tensor

    @property
    def own_precision(self) -> torch.dtype:
        """The coarsest precision that training computes in, autocast apart."""
        dtypes = {p.dtype for p in self.network.module.parameters() if p.is_floating_point()}
        return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)

    def _coarsest(self, sample: Rows) -> torch.dtype:
        """The coarsest precision among what a pass keeps for its backward pass."""
        seen = {self.layout.dtype if self.is_raised else self.own_precision}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                seen.add(tensor.dtype)
            return tensor

        with (
            torch.enable_grad(),
            self.native(self.leaves(self.theta())) as call,
            torch.autograd.graph.saved_tensors_hooks(pack, _as_it_is),
        ):
            call(sample)
        return max(seen, key=lambda dtype: torch.finfo(dtype).eps)

    def _runs_in_full_precision(self, sample: Rows) -> bool:
        """Whether the model has tensors in half precision and runs with all of them raised."""
        module = self.network.module
        if not any(_is_half(tensor) for tensor in [*module.parameters(), *module.buffers()]):
            return False
        self.is_raised = True
        try:
            self.outputs(self.theta(), sample)
        except (RuntimeError, TypeError):
            return False
        return True


def _flat(outputs: Tensor) -> Tensor:
    return outputs.reshape(outputs.shape[0], -1)


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bfloat16, torch.float16)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


@contextmanager
def _in_formulas() -> Iterator[None]:
    with without_checkpoints(None), Instead(INSTEAD_OF_KERNELS):
        yield


@contextmanager
def _differentiable_kernels() -> Iterator[None]:
    # Fused attention and the fused layers of transformers in eval mode have no forward-mode
    # derivative.
    fused_layers = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_layers)
