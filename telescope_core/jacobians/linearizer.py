"""Chooses how a model's Jacobian is represented and linearises it wherever asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from telescope_core.errors import ModelError, NonFiniteError
from telescope_core.inputs import Rows, call_arguments, count_rows, map_rows
from telescope_core.jacobians.functional import FunctionalLinearization
from telescope_core.jacobians.layers import Layer, find_layers
from telescope_core.jacobians.linearization import Linearization, without_autocast
from telescope_core.jacobians.recurrent import Watch, can_be_unrolled, unrolled
from telescope_core.jacobians.traced import TracedLinearization
from telescope_core.layout import ParameterLayout

Form = Literal["auto", "factors", "functional"]

_HALF = (torch.bfloat16, torch.float16)


class Linearizer:
    """A model as a function of its flat trained parameters.

    A model in half precision is linearised as a function in the layout's precision (float32), at
    the values that its parameters hold: the rounding of its own kernels is noise of training, not
    a part of the function, and would drown the second order of the telescoping model.  Outputs
    then differ from the model's own by its rounding.  A model whose forward insists on half
    precision (hard-coded casts) is linearised as it computes.  For the same reason an autocast
    around the caller is switched off; one inside the model's forward is the model's own.

    Args:
        model: Any module whose outputs have rows in the first dimension and whose rows do not
            influence each other.
        layout: Order of the trained parameters.
        sample: A few rows of input, used to learn the output shape and to check the layer factors
            against backpropagation once.
        form: ``"factors"`` (layer factors, fast), ``"functional"`` (``torch.func``, any model) or
            ``"auto"``: factors where they reproduce backpropagation on the sample, functional
            otherwise.

    Attributes:
        k: Number of outputs per row.
        output_shape: Shape of one row of the model's output; ``()`` for outputs of shape (rows,).
        form: The form in use.

    Raises:
        ModelError: The model cannot be evaluated on the sample, its outputs have no row dimension,
            ``form="factors"`` was asked for and does not describe the model, or torch cannot
            differentiate it.
    """

    def __init__(
        self, model: nn.Module, layout: ParameterLayout, sample: Rows, form: Form = "auto"
    ) -> None:
        self._model = model
        self._layout = layout
        self._dtypes = {name: p.dtype for name, p in model.named_parameters()}
        self._recurrent = [
            module
            for module in model.modules()
            if isinstance(module, nn.RNNBase) and can_be_unrolled(module)
        ]
        self._in_full_precision = False
        args, kwargs = call_arguments(model, sample)
        rows = count_rows(sample)
        with torch.no_grad():
            outputs = model(*args, **kwargs)
        if not isinstance(outputs, Tensor) or outputs.ndim < 1 or len(outputs) != rows:
            given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ModelError(
                f"the model returned {given} for {rows} rows of input; expected one tensor "
                "whose first dimension is the rows: wrap the model so that it returns that"
            )
        self.output_shape: tuple[int, ...] = tuple(outputs.shape[1:])
        self.k: int = outputs[0].numel()
        with without_autocast(self.theta().device):
            self._in_full_precision = self._runs_in_full_precision(sample)
            theta = self.theta()
            cotangents, gradients = self._pull_at_random(theta, sample)
            self._used = frozenset(gradients)
            self._layers: list[Layer] = [] if form == "functional" else find_layers(model, layout)
            if self._layers and not self._factors_agree(theta, sample, cotangents, gradients):
                self._layers = []
        if form == "factors" and not self._layers:
            raise ModelError(
                "form='factors' was asked for, but no layer's factors reproduce the model's "
                "derivative (its parameters act outside of their layers, or rows are not the "
                "first dimension); use form='auto' or form='functional'"
            )
        self.form: Form = "factors" if self._layers else "functional"
        if self.form == "functional":
            self._require_products(sample)

    def linearize(self, theta: Tensor, inputs: Rows) -> Linearization:
        """The model's linearisation at ``theta`` on ``inputs``.

        Args:
            theta: Parameters, shape ``(p,)``; not copied, so it must not change while in use.
            inputs: Rows of input.

        Raises:
            NonFiniteError: The outputs contain NaN or infinities.
        """
        made: Linearization
        at = (self._layout, theta, inputs, self._used)
        with without_autocast(theta.device):
            if self._layers:
                made = TracedLinearization(self._forward, self._layers, *at)
            else:
                made = FunctionalLinearization(self._forward, *at)
        _require_finite(made.outputs)
        return made

    def outputs(self, theta: Tensor, inputs: Rows) -> Tensor:
        """Network outputs only, shape ``(rows, k)``."""
        with torch.no_grad(), without_autocast(theta.device):
            outputs = self._forward(self._layout.unflatten(theta), inputs).to(self._layout.dtype)
        _require_finite(outputs)
        return outputs

    def theta(self) -> Tensor:
        """A copy of the model's trained parameters as they are now, shape ``(p,)``."""
        parameters = dict(self._model.named_parameters())
        return self._layout.flatten(parameters)

    def gradient(self) -> Tensor:
        """The gradient now stored in the trained parameters, 0 where there is none, ``(p,)``."""
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in self._model.named_parameters()
        }
        return self._layout.flatten(gradients)

    def backpropagate(self, inputs: Rows, value: Callable[[Tensor], Tensor]) -> Tensor:
        """Gradient of ``value(outputs)`` with respect to the parameters as they are, ``(p,)``."""
        parameters: dict[str, Tensor] = {
            name: p for name, p in self._model.named_parameters() if name in self._layout.by_name
        }
        args, kwargs = call_arguments(self._model, inputs)
        with torch.enable_grad():
            return self._gradient_of(value(self._model(*args, **kwargs)), parameters)

    def _gradient_of(
        self, outputs: Tensor, leaves: dict[str, Tensor], cotangent: Tensor | None = None
    ) -> Tensor:
        """Backpropagate to the leaves, 0 where the outputs do not depend on them, ``(p,)``."""
        gradients = torch.autograd.grad(
            outputs, list(leaves.values()), cotangent, retain_graph=True, allow_unused=True
        )
        named = zip(leaves.items(), gradients, strict=True)
        return self._layout.flatten(
            {n: torch.zeros_like(p) if g is None else g for (n, p), g in named}
        )

    def _forward(
        self, parameters: dict[str, Tensor], inputs: Rows, watch: Watch | None = None
    ) -> Tensor:
        # Contiguous as in the model itself: another memory layout rounds differently, which is
        # enough to put a unit on the other side of a kink.
        if self._in_full_precision:
            cast = {**self._raised(), **{n: value.contiguous() for n, value in parameters.items()}}
            inputs = map_rows(inputs, self._raise)
        else:
            cast = {n: p.to(self._dtypes[n]).contiguous() for n, p in parameters.items()}
        with _differentiable_kernels(), unrolled(self._recurrent, watch):
            args, kwargs = call_arguments(self._model, inputs)
            outputs: Tensor = torch.func.functional_call(self._model, cast, args, kwargs)
        return outputs.reshape(outputs.shape[0], -1)

    def _runs_in_full_precision(self, sample: Rows) -> bool:
        """Whether the model has tensors in half precision and runs with all of them raised."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        if not any(tensor.dtype in _HALF for tensor in tensors):
            return False
        self._in_full_precision = True
        try:
            self.outputs(self.theta(), sample)
        except (RuntimeError, TypeError):
            return False
        return True

    def _raised(self) -> dict[str, Tensor]:
        """Parameters and buffers in half precision, in the layout's instead."""
        named = [*self._model.named_parameters(), *self._model.named_buffers()]
        return {n: self._raise(tensor.detach()) for n, tensor in named if tensor.dtype in _HALF}

    def _raise(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._layout.dtype) if tensor.dtype in _HALF else tensor

    def _precision(self) -> torch.dtype:
        """The coarsest precision that the model computes in."""
        dtypes = {p.dtype for p in self._model.parameters() if p.is_floating_point()}
        if self._in_full_precision or not dtypes:
            return self._layout.dtype
        return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)

    def _pull_at_random(self, theta: Tensor, sample: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Backpropagate random cotangents on the sample.

        Returns:
            The cotangents, shape ``(rows, k, 1)``, and the gradient of each trained parameter that
            the outputs depend on at all.
        """
        with torch.enable_grad():
            views = self._layout.unflatten(theta)
            leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
            outputs = self._forward(leaves, sample)
        if not outputs.requires_grad:
            raise ModelError(
                "the outputs do not depend on any trained parameter through differentiable "
                "operations; check for detach() or no_grad() in the model's forward"
            )
        generator = torch.Generator().manual_seed(0)
        cotangents = torch.randn(*outputs.shape, 1, generator=generator, dtype=self._layout.dtype)
        cotangents = cotangents.to(outputs.device)
        pulled = torch.autograd.grad(
            outputs, list(leaves.values()), cotangents[..., 0].to(outputs), allow_unused=True
        )
        named = zip(leaves, pulled, strict=True)
        return cotangents, {name: g for name, g in named if g is not None}

    def _factors_agree(
        self, theta: Tensor, sample: Rows, cotangents: Tensor, gradients: dict[str, Tensor]
    ) -> bool:
        """Whether the layer factors reproduce these gradients of the cotangents."""
        at = (self._layout, theta, sample, self._used)
        try:
            structured = TracedLinearization(self._forward, self._layers, *at).vjp(cotangents)
        except (RuntimeError, ValueError, IndexError):
            return False
        expected = torch.zeros_like(structured)
        views = self._layout.unflatten(expected[:, 0])
        for name, gradient in gradients.items():
            views[name].copy_(gradient)
        tolerance = torch.finfo(self._precision()).eps ** 0.75
        scale = float(expected.abs().max()) or 1.0
        return bool((expected - structured).abs().max() <= tolerance * scale)

    def _require_products(self, sample: Rows) -> None:
        """Refuse a model through which torch.func cannot push directions."""
        made = FunctionalLinearization(
            self._forward, self._layout, self.theta(), sample, self._used
        )
        try:
            made.jvp(made.vjp(torch.ones_like(made.outputs)[..., None]))
        except RuntimeError as error:
            raise ModelError(
                f"torch.func cannot differentiate the model: {error}; replace the operation, or "
                "use layers with factors throughout (linear, convolution, embedding, recurrent, "
                "normalisation)"
            ) from error


def _require_finite(outputs: Tensor) -> None:
    if not bool(torch.isfinite(outputs).all()):
        raise NonFiniteError(
            "the network's outputs contain NaN or infinity; training has diverged: lower the "
            "learning rate, or look at the inputs of the rows concerned"
        )


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
