"""Whether a linearisation is the derivative of the model: what is believed is compared.

All comparisons are of a random projection ``uᵀ J`` or ``J u`` with something computed another way:
plain backpropagation in the kernels of training, the outputs of a few rows on their own, and
differences of outputs.  They cost about as much as one training step on the rows concerned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from telescope_core.errors import ModelError
from telescope_core.jacobians.linearization import Linearization
from telescope_core.jacobians.model_function import ModelFunction
from telescope_core.network.autograd import graph_of
from telescope_core.network.inputs import Rows
from telescope_core.network.layout import ParameterLayout

# Gradients this far below the largest one, in units of rounding, are noise.
_NOISE = 50.0
# Of the slope, that differences may be off by.
_RELATIVE = 1e-3
_RELATIVE_WITH_KINKS = 0.3
_DRAWS = 3
# Two ways of summing up may differ by this many times what one of them is off by.
_ROUNDINGS = 10.0


def random_cotangents(outputs: Tensor, seed: int) -> Tensor:
    """Standard normal numbers in the shape of the outputs and one more dimension, 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(*outputs.shape, 1, generator=generator, dtype=outputs.dtype)
    return drawn.to(outputs)


def random_theta(theta: Tensor, layout: ParameterLayout, size: float, seed: int) -> Tensor:
    """A θ nearby where nothing is zero by initialisation."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.randn(len(theta), generator=generator, dtype=theta.dtype).to(theta)
    for segment in layout.segments:
        rows = theta[segment.rows]
        own = float(rows.square().mean().sqrt()) if segment.size else 0.0
        step[segment.rows] *= size * (own or 0.25)
    return theta + step


def backpropagated(
    function: ModelFunction, theta: Tensor, inputs: Rows, cotangents: Tensor
) -> Tensor:
    """``Jᵀ u`` at θ by plain backpropagation, shape ``(p,)``."""
    leaves = function.leaves(theta)
    with torch.enable_grad(), function.native(leaves) as call:
        outputs = call(inputs)
        return function.pulled(outputs, leaves, cotangents[..., 0].to(outputs))


def rounding_of(
    function: ModelFunction, theta: Tensor, inputs: Rows, cotangents: Tensor, expected: Tensor
) -> Tensor:
    """By how much a gradient of backpropagation is off, entry by entry: that in double precision.

    Returns:
        Shape ``(p,)``; zeros for a model that insists on its own precision.
    """
    leaves = function.leaves(theta.double())
    try:
        with torch.enable_grad(), function.in_precision(leaves, torch.float64) as call:
            f = call(inputs)
            exact = function.pulled(f, leaves, cotangents[..., 0].to(f))
    except (RuntimeError, TypeError):
        return torch.zeros_like(expected)
    return (expected - exact.to(expected)).abs()


def backpropagated_as_trained(
    function: ModelFunction, inputs: Rows, cotangents: Tensor
) -> tuple[Tensor, Tensor]:
    """The same with the model's very own parameters as they are now.

    Returns:
        The product, 0 for parameters that require no gradient now, shape ``(p,)``, and the outputs,
        shape ``(rows, k)``.
    """
    with torch.enable_grad(), function.as_trained() as (call, own):
        outputs = call(inputs)
        outputs = outputs.reshape(len(outputs), -1)
        return function.pulled(outputs, own, cotangents[..., 0].to(outputs)), outputs.detach()


def differing(
    layout: ParameterLayout,
    actual: Tensor,
    expected: Tensor,
    tolerance: float,
    eps: float,
    rounding: Tensor | None = None,
) -> list[str]:
    """Names of the parameters in whose rows two gradients of shape ``(p,)`` differ.

    Args:
        layout: The parameters.
        actual: One gradient.
        expected: The other.
        tolerance: Allowed, relative to a parameter's largest entry.
        eps: Rounding of the precision that both were computed in.
        rounding: What ``expected`` is known to be off by, entry by entry.

    Returns:
        The names in the order of the layout; NaN counts as a difference.
    """
    gap = (actual - expected).abs()
    noise = _NOISE * eps * float(expected.abs().max() if len(expected) else 0.0)
    names = []
    for segment in layout.segments:
        if not segment.size:
            continue
        allowed = tolerance * float(expected[segment.rows].abs().max()) + noise
        if rounding is not None:
            allowed += _ROUNDINGS * float(rounding[segment.rows].max())
        # Written so that NaN counts as a difference.
        if not float(gap[segment.rows].max()) <= allowed:
            names.append(segment.name)
    return names


def is_adjoint(made: Linearization, cotangents: Tensor, pulled: Tensor, eps: float) -> bool:
    """Whether ``jvp`` is the adjoint of ``vjp``: ``uᵀ (J v) = (Jᵀ u)ᵀ v`` for ``v = Jᵀ u``."""
    squared = float(pulled.cpu().double().square().sum())
    pushed = made.jvp(pulled[:, None])
    gap = abs(float((pushed * cotangents).cpu().double().sum()) - squared)
    # Where J vanishes, what is left of it is rounding.
    lengths = float(torch.linalg.vector_norm(cotangents)) * math.sqrt(squared)
    noise = _NOISE * eps * (1 + float(made.outputs.abs().max())) * lengths
    return gap <= math.sqrt(eps) * squared + noise


def check_differences(function: ModelFunction, theta: Tensor, inputs: Rows, seed: int) -> None:
    """Refuse a model whose backward pass is not the derivative of its forward pass.

    Both are taken in double precision, where steps are so small that they hardly cross a kink; a
    model that insists on another precision is judged with more tolerance.

    Raises:
        ModelError: Naming custom functions in the graph, if there are.
    """
    try:
        wrong = _differs_from_differences(function, theta, inputs, seed, torch.float64)
    except (RuntimeError, TypeError):
        wrong = _differs_from_differences(function, theta, inputs, seed, function.precision)
    if wrong:
        named = sorted(set(custom_functions(function, theta, inputs)))
        raise ModelError(
            "the model's backward pass is not the derivative of its forward pass, by differences "
            f"of its outputs (in {', '.join(named) or 'a detach() or a hook of a tensor'}: "
            "gradient reversal, straight-through estimators, gradient scaling?); the telescoping "
            "model needs the derivative itself"
        )


def _differs_from_differences(
    function: ModelFunction, theta: Tensor, inputs: Rows, seed: int, precision: torch.dtype
) -> bool:
    eps = torch.finfo(precision).eps
    # Of the third root, where rounding and curvature weigh the same.
    steps = [eps ** (1 / 3), eps ** (1 / 3) / 4]
    if precision == torch.float64:
        # For networks so curved or with so many kinks that these are no small steps for them.
        steps.append(steps[0] / 64)
    relative = _RELATIVE if precision == torch.float64 else _RELATIVE_WITH_KINKS
    layout = function.layout

    def difference(direction: Tensor, step: float, u: Tensor) -> float:
        ends = []
        for h in (step, -step):
            place = layout.unflatten(theta.to(precision) + h * direction.to(precision))
            with torch.no_grad(), function.in_precision(place, precision) as call:
                ends.append(call(inputs))
        return float(((ends[0] - ends[1]) * u).cpu().double().sum()) / (2 * step)

    def disagrees(draw: int) -> bool:
        leaves = function.leaves(theta.to(precision))
        with torch.enable_grad(), function.in_precision(leaves, precision) as call:
            f = call(inputs)
            u = random_cotangents(f.detach(), draw)[..., 0]
            gradient = function.pulled(f, leaves, u)
        rounding = 10 * eps * (1 + float(f.detach().abs().max())) * float(u.abs().sum())
        for direction in _directions(layout, theta, gradient, draw):
            slope = float((gradient * direction).cpu().double().sum())
            if not any(agree(slope, direction, u, rounding, *pair) for pair in pairwise(steps)):
                return True
        return False

    def agree(
        slope: float, direction: Tensor, u: Tensor, rounding: float, wide: float, narrow: float
    ) -> bool:
        coarse, fine = (difference(direction, step, u) for step in (wide, narrow))
        noise = 4 * abs(coarse - fine) + rounding / narrow
        return abs(slope - fine) <= noise + relative * max(abs(slope), abs(fine))

    # A step may cross a kink; a wrong derivative is wrong in every draw.
    return all(disagrees(draw) for draw in range(seed, seed + _DRAWS))


def _directions(
    layout: ParameterLayout, theta: Tensor, gradient: Tensor, seed: int
) -> Iterator[Tensor]:
    """Ways to move all parameters, each by as much as it is large: up the gradient, and anyhow."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(theta), generator=generator, dtype=theta.dtype).to(theta)
    # What backpropagation never reaches (the row of a padding index) does not move in training.
    for raw in (gradient, torch.where(gradient == 0, 0.0, drawn)):
        direction = torch.zeros_like(theta)
        for segment in layout.segments:
            rows = segment.rows
            length = float(torch.linalg.vector_norm(raw[rows]))
            if length:
                size = float(torch.linalg.vector_norm(theta[rows]))
                direction[rows] = raw[rows] * (size / length)
        yield direction


def custom_functions(function: ModelFunction, theta: Tensor, inputs: Rows) -> Iterator[str]:
    """Names of the ``torch.autograd.Function`` subclasses in the graph of the outputs."""
    with torch.enable_grad(), function.native(function.leaves(theta)) as call:
        for node in graph_of(call(inputs)):
            if torch.autograd.function.BackwardCFunction in type(node).__mro__:
                yield type(node).__name__.removesuffix("Backward")
