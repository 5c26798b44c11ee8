"""Chooses how a model's Jacobian is represented and linearises it wherever asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from telescope_core.errors import ModelError, NonFiniteError
from telescope_core.inputs import Rows, call_arguments, count_rows
from telescope_core.jacobians.functional import FunctionalLinearization
from telescope_core.jacobians.layers import Layer, find_layers
from telescope_core.jacobians.linearization import Linearization
from telescope_core.jacobians.traced import TracedLinearization
from telescope_core.layout import ParameterLayout

Form = Literal["auto", "factors", "functional"]


class Linearizer:
    """A model as a function of its flat trained parameters.

    Args:
        model: Any module whose outputs have rows in the first dimension and whose rows do not
            influence each other.
        layout: Order of the trained parameters.
        sample: A few rows of input, used to learn the output shape and to check the layer factors
            against ``torch.func`` once.
        form: ``"factors"`` (layer factors, fast), ``"functional"`` (any model) or ``"auto"``:
            factors where they reproduce ``torch.func`` on the sample, functional otherwise.

    Attributes:
        k: Number of outputs per row.
        output_shape: Shape of one row of the model's output; ``()`` for outputs of shape (rows,).
        form: The form in use.

    Raises:
        ModelError: The model cannot be evaluated on the sample, its outputs have no row dimension,
            or ``form="factors"`` was asked for and does not describe the model.
    """

    def __init__(
        self, model: nn.Module, layout: ParameterLayout, sample: Rows, form: Form = "auto"
    ) -> None:
        self._model = model
        self._layout = layout
        self._dtypes = {name: p.dtype for name, p in model.named_parameters()}
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
        self._used = self._used_parameters(sample)
        self._layers: list[Layer] = [] if form == "functional" else find_layers(model, layout)
        if self._layers and not self._factors_agree(sample):
            self._layers = []
        if form == "factors" and not self._layers:
            raise ModelError(
                "form='factors' was asked for, but no layer's factors reproduce the model's "
                "derivative (its parameters act outside of their layers, or rows are not the "
                "first dimension); use form='auto' or form='functional'"
            )
        self.form: Form = "factors" if self._layers else "functional"

    def linearize(self, theta: Tensor, inputs: Rows) -> Linearization:
        """The model's linearisation at ``theta`` on ``inputs``.

        Args:
            theta: Parameters, shape ``(p,)``; not copied, so it must not change while in use.
            inputs: Rows of input.

        Raises:
            NonFiniteError: The outputs contain NaN or infinities.
        """
        made: Linearization
        if self._layers:
            made = TracedLinearization(
                self._forward, self._layers, self._layout, theta, inputs, self._used
            )
        else:
            made = FunctionalLinearization(self._forward, self._layout, theta, inputs, self._used)
        _require_finite(made.outputs)
        return made

    def outputs(self, theta: Tensor, inputs: Rows) -> Tensor:
        """Network outputs only, shape ``(rows, k)``."""
        with torch.no_grad():
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
        parameters = {
            name: p for name, p in self._model.named_parameters() if name in self._layout.by_name
        }
        args, kwargs = call_arguments(self._model, inputs)
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                value(self._model(*args, **kwargs)), list(parameters.values()), allow_unused=True
            )
        return self._layout.flatten(
            {
                name: torch.zeros_like(p) if g is None else g
                for (name, p), g in zip(parameters.items(), gradients, strict=True)
            }
        )

    def _forward(self, parameters: dict[str, Tensor], inputs: Rows) -> Tensor:
        # Contiguous as in the model itself: another memory layout rounds differently, which is
        # enough to put a unit on the other side of a kink.
        cast = {
            name: value.to(self._dtypes[name]).contiguous() for name, value in parameters.items()
        }
        with _differentiable_kernels():
            args, kwargs = call_arguments(self._model, inputs)
            outputs: Tensor = torch.func.functional_call(self._model, cast, args, kwargs)
        return outputs.reshape(outputs.shape[0], -1)

    def _used_parameters(self, sample: Rows) -> frozenset[str]:
        """Names of the trained parameters that the outputs depend on at all."""
        views = self._layout.unflatten(self.theta())
        with torch.enable_grad():
            leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
            outputs = self._forward(leaves, sample)
            if not outputs.requires_grad:
                raise ModelError(
                    "the outputs do not depend on any trained parameter through differentiable "
                    "operations; check for detach() or no_grad() in the model's forward"
                )
            gradients = torch.autograd.grad(outputs.sum(), list(leaves.values()), allow_unused=True)
        used = zip(leaves, gradients, strict=True)
        return frozenset(name for name, gradient in used if gradient is not None)

    def _factors_agree(self, sample: Rows) -> bool:
        """Whether the layer factors reproduce torch.func's derivative along two directions."""
        theta = self.theta()
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(self._layout.size, 2, generator=generator, dtype=theta.dtype)
        directions = directions.to(theta.device)
        at = (self._layout, theta, sample, self._used)
        plain = FunctionalLinearization(self._forward, *at).jvp(directions)
        try:
            traced = TracedLinearization(self._forward, self._layers, *at)
            structured = traced.jvp(directions)
        except (RuntimeError, ValueError, IndexError):
            return False
        tolerance = torch.finfo(theta.dtype).eps ** 0.75
        scale = float(plain.abs().max()) or 1.0
        return bool((plain - structured).abs().max() <= tolerance * scale)


def _require_finite(outputs: Tensor) -> None:
    if not bool(torch.isfinite(outputs).all()):
        raise NonFiniteError(
            "the network's outputs contain NaN or infinity; training has diverged: lower the "
            "learning rate, or look at the inputs of the rows concerned"
        )


@contextmanager
def _differentiable_kernels() -> Iterator[None]:
    # Fused attention has no forward-mode derivative.
    with sdpa_kernel(SDPBackend.MATH):
        yield
