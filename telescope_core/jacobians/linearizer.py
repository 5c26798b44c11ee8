"""Chooses how a model's Jacobian is represented and linearises it wherever asked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from telescope_core.errors import ModelError, NonFiniteError, listed
from telescope_core.jacobians import agreement
from telescope_core.jacobians.functional import FunctionalLinearization
from telescope_core.jacobians.layers import Layer, find_layers
from telescope_core.jacobians.linearization import Linearization, without_autocast
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.jacobians.traced import Signature, TracedLinearization, UnfitFactorsError
from telescope_core.network import Network
from telescope_core.network.inputs import Rows
from telescope_core.network.layout import ParameterLayout

Form = Literal["auto", "factors", "functional"]

# How far the place of the second comparison is from θ, relative to each parameter's size.
_NEARBY = (0.1, 0.01, 0.001)
_SEED = 20241100247
# Factors take a backward pass for each output of a row.
_MOST_OUTPUTS = 256


class Linearizer:
    """A model as a function of its flat trained parameters, and its derivative.

    Layer factors are read off the calls of a model's layers, and what cannot be seen there (a
    weight used outside of its layer, rows that are not the first dimension) would be left out.  So
    whenever the layers are called with shapes that were not seen before, the factors are compared
    with backpropagation, at θ and, where a gradient vanishes there (by initialisation, say), at a
    random place nearby; layers that disagree go through ``torch.func`` from then on.

    Args:
        network: Any module whose outputs have rows in the first dimension and whose rows do not
            influence each other, or a :class:`telescope_core.network.Network` of it.
        layout: Order of the trained parameters.
        sample: Some rows of input, to look at the model with.
        form: ``"factors"`` (layer factors, fast), ``"functional"`` (``torch.func``, any model) or
            ``"auto"``: factors where they reproduce backpropagation and a row has at most 256
            outputs, functional otherwise.

    Attributes:
        function: The model's outputs at any θ, and θ as it is now.

    Raises:
        ModelError: The model cannot be evaluated on the sample, its outputs have no row dimension,
            ``form="factors"`` was asked for and does not describe the model, or torch cannot
            differentiate it.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        layout: ParameterLayout,
        sample: Rows,
        form: Form = "auto",
    ) -> None:
        if isinstance(network, nn.Module):
            network = Network(network)
        self.function = ModelFunction(network, layout, sample)
        self._layout = layout
        self._asked = form
        self._layers: tuple[Layer, ...] = ()
        outputs = math.prod(self.function.output_shape)
        if form == "factors" or (form == "auto" and outputs <= _MOST_OUTPUTS):
            self._layers = tuple(find_layers(network.module, layout))
        self._seen: set[Signature] = set()
        self._look_at(sample)

    @property
    def form(self) -> Form:
        """The form in use: "factors" as long as some layer's are."""
        return "factors" if self._layers else "functional"

    def linearize(self, theta: Tensor, inputs: Rows) -> Linearization:
        """The model's linearisation at ``theta`` on ``inputs``.

        Args:
            theta: Parameters, shape ``(p,)``; not copied, so it must not change while in use.
            inputs: Rows of input.

        Returns:
            Outputs and products with the Jacobian, compared with backpropagation if new in form.

        Raises:
            ModelError: ``form="factors"`` was asked for and no layer's reproduce backpropagation.
            NonFiniteError: The outputs contain NaN or infinities.
        """
        made = self._made(theta, inputs)
        if isinstance(made, TracedLinearization) and made.signature not in self._seen:
            made = self._compared(made, theta, inputs)
        return made

    def outputs(self, theta: Tensor, inputs: Rows) -> Tensor:
        """Network outputs only, shape ``(rows, k)``."""
        outputs = self.function.outputs(theta, inputs)
        _require_finite(outputs)
        return outputs

    def _made(self, theta: Tensor, inputs: Rows) -> Linearization:
        at = (self._layout, theta, inputs)
        made: Linearization | None = None
        with without_autocast(theta.device):
            while self._layers and made is None:
                try:
                    made = TracedLinearization(self.function, self._layers, *at)
                except UnfitFactorsError as error:
                    self._leave_out(error.names)
            if made is None:
                made = FunctionalLinearization(self.function, *at)
        _require_finite(made.outputs)
        return made

    def _compared(self, made: Linearization, theta: Tensor, inputs: Rows) -> Linearization:
        """Leave out the layers whose factors disagree with backpropagation on these inputs."""
        while isinstance(made, TracedLinearization):
            wrong, says_all = self._disagreeing(made, theta, inputs)
            elsewhere = None if wrong or says_all else self._nearby(theta, inputs)
            if elsewhere is not None:
                there = self._made(elsewhere, inputs)
                wrong, _ = self._disagreeing(there, elsewhere, inputs)
            if not wrong:
                self._seen.add(made.signature)
                break
            self._leave_out(wrong)
            made = self._made(theta, inputs)
        return made

    def _disagreeing(
        self, made: Linearization, theta: Tensor, inputs: Rows
    ) -> tuple[list[str], bool]:
        """Compare a random projection of J with backpropagation.

        Returns:
            The parameters in which they differ, and whether the comparison says something about
            each of them: a gradient that vanishes, as under a head that starts at zero, does not.
        """
        cotangents = agreement.random_cotangents(made.outputs, _SEED)
        expected = agreement.backpropagated(self.function, theta, inputs, cotangents)
        eps = torch.finfo(self.function.precision).eps
        pulled = made.vjp(cotangents)[:, 0]
        visible = eps**0.5 * float(expected.abs().max())
        segments = [s for s in self._layout.segments if s.size]
        says_all = all(float(expected[s.rows].abs().max()) > visible for s in segments)
        asked = self._layout, pulled, expected, eps**0.75, eps
        wrong = agreement.differing(*asked)
        if wrong:
            at = self.function, theta, inputs, cotangents
            wrong = agreement.differing(*asked, agreement.rounding_of(*at, expected))
        return wrong, says_all

    def _leave_out(self, names: Iterable[str]) -> None:
        """Do without the layers that hold one of these parameters."""
        wrong = set(names)
        kept = self._layers
        own = [layer for layer in kept if layer.is_registered and layer.names & wrong]
        if own:
            kinds = sorted({type(layer.module).__name__ for layer in own})
            held = sorted(name for layer in own for name in layer.names & wrong)
            raise ModelError(
                f"the factors registered for {', '.join(kinds)} do not reproduce backpropagation "
                f"in {listed(held)}; correct them (see telescope_core.jacobians.register_layer), "
                "or use form='functional'"
            )
        while True:
            dropped = [layer for layer in kept if layer.names & wrong]
            if not dropped:
                break
            # What a layer left out shares with another one is covered by neither.
            wrong |= {name for layer in dropped for name in layer.names}
            kept = tuple(layer for layer in kept if layer not in dropped)
        if kept == self._layers:
            # Nothing that factors cover: all of them are in doubt.
            kept = ()
        if self._asked == "factors" and not kept:
            raise ModelError(
                "form='factors' was asked for, but no layer's factors reproduce the model's "
                "derivative (its parameters act outside of their layers, or rows are not the "
                "first dimension); use form='auto' or form='functional'"
            )
        self._layers = kept

    def _nearby(self, theta: Tensor, inputs: Rows) -> Tensor | None:
        """A random θ at which the outputs are finite, if there is one."""
        for size in _NEARBY:
            elsewhere = agreement.random_theta(theta, self._layout, size, _SEED)
            if bool(torch.isfinite(self.function.outputs(elsewhere, inputs)).all()):
                return elsewhere
        return None

    def _look_at(self, sample: Rows) -> None:
        """Compare both forms with backpropagation, and that with differences of outputs."""
        theta = self.function.theta()
        if self._asked == "factors" and not self._layers:
            self._leave_out([])
        self._require_dependence(theta, sample)
        elsewhere = self._nearby(theta, sample)
        for place in (theta,) if elsewhere is None else (theta, elsewhere):
            made = self._compared(self._made(place, sample), place, sample)
            wrong = self._trouble(made, place, sample)
            if wrong and not self.function.by_column:
                self.function.by_column = True
                wrong = self._trouble(made, place, sample)
            if wrong:
                raise ModelError(
                    f"torch differentiates the model in several ways that disagree: {wrong}; "
                    "replace the operations concerned"
                )
        agreement.check_differences(self.function, place, sample, _SEED + 2)

    def _trouble(self, made: Linearization, place: Tensor, sample: Rows) -> str:
        """In what a linearisation disagrees with backpropagation or with itself, if it does."""
        wrong, _ = self._disagreeing(made, place, sample)
        cotangents = agreement.random_cotangents(made.outputs, _SEED + 1)
        pulled = made.vjp(cotangents)[:, 0]
        eps = torch.finfo(self.function.precision).eps
        if not wrong and not agreement.is_adjoint(made, cotangents, pulled, eps):
            wrong = ["forward and reverse mode"]
        return listed(wrong)

    def _require_dependence(self, theta: Tensor, sample: Rows) -> None:
        leaves = self.function.leaves(theta)
        with torch.enable_grad(), self.function.native(leaves) as call:
            depends = call(sample).requires_grad
        if not depends:
            raise ModelError(
                "the outputs do not depend on any trained parameter through differentiable "
                "operations; check for detach() or no_grad() in the model's forward"
            )


def _require_finite(outputs: Tensor) -> None:
    if not bool(torch.isfinite(outputs).all()):
        raise NonFiniteError(
            "the network's outputs contain NaN or infinity; training has diverged: lower the "
            "learning rate, or look at the inputs of the rows concerned"
        )
