"""Whether a loss is a squared one: its gradient affine, or even ``c (f − y)``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from telescope_core.errors import LossError
from telescope_core.losses.calls import Loss, evaluate

_MAGNITUDES = (1e-2, 1.0, 1e2, 1e4, 1e6)
# Two entries tell little about a kink, so small batches are drawn for more often.
_FEW_ENTRIES = 16

Gradient = Callable[[Tensor, Tensor], Tensor]
"""``g(f, Y)``."""


def magnitude_of(*tensors: Tensor) -> float:
    """The root mean square of all entries; 1 where all vanish."""
    total = sum(float(tensor.detach().cpu().double().square().sum()) for tensor in tensors)
    size = (total / max(1, sum(tensor.numel() for tensor in tensors))) ** 0.5
    return size if 0 < size < float("inf") else 1.0


def log_uniform(like: Tensor, magnitude: float, generator: torch.Generator) -> Tensor:
    """Random signs times ``magnitude`` times 10^u, u uniform between −3 and 3."""
    u = torch.rand(like.shape, generator=generator, dtype=torch.float64)
    sign = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return (sign * magnitude * 10 ** (6 * u - 3)).to(like.dtype).to(like.device)


def is_affine(gradient: Gradient, outputs: Tensor, targets: Tensor) -> bool:
    r"""Whether ``g(f, Y)`` is affine in (f, Y) wherever it is defined, and defined everywhere.

    Values of g are compared, at points far from the data, too: a loss with a kink (absolute,
    pinball, Huber, hinge) has a derivative that is constant almost everywhere.  Points between
    rows of the data come first, then points ever farther away, so that a loss that lives on a
    convex set only is found out before it is left.

    Returns:
        False as well if g is not finite, or fails, somewhere.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the loss, about values that training never sees
        try:
            here = gradient(outputs, targets)
            if not _is_affine_between_rows(gradient, here, outputs, targets):
                return False
            return all(
                _is_parallelogram(gradient, here, (outputs, targets), *steps)
                for steps in _steps(outputs, targets)
            )
        except LossError:
            return False


def is_affine_on_a_line(
    gradient: Gradient, outputs: Tensor, targets: Tensor, generator: torch.Generator
) -> bool:
    """Whether g is affine and finite along one random line through a batch: three gradients."""
    size = magnitude_of(outputs, targets)
    r, s = log_uniform(outputs, size, generator), log_uniform(targets, size, generator)
    try:
        here = gradient(outputs, targets)
        near = gradient(outputs + r, targets + s)
        far = gradient(outputs + 4 * r, targets + 4 * s)
    except LossError:
        return False
    return _vanishes(far - here - 4 * (near - here), 4 * near, far, 4 * here)


class ScaleProbe:
    r"""Finds the number c with ``g(f, y) = c (f − y)``, from one gradient at some ``(y + r, y)``.

    A loss whose gradient is affine in both has the same c everywhere.  The place is such that
    ``f − y`` does not round (r consists of powers of two, y of small integers), so that c does not
    depend on the order of rows or on anything that was asked before.  The entries of r are of all
    sizes from 1e-3 to 1e3 times the data's, so that entries with different weights are told apart,
    and kinks are crossed.
    """

    def __init__(self, loss: Loss, outputs: Tensor, magnitude: float) -> None:
        self._loss = loss
        self._exponent = round(math.log2(magnitude))
        self._row = outputs[:1].detach()
        self._tolerance = 1e2 * torch.finfo(outputs.dtype).eps
        self._residuals: list[_Residual] = []
        self._known: tuple[list[float], float | None] = ([], None)

    def scale(self, targets: Tensor) -> float | None:
        """The number c on a batch like this.

        Returns:
            The number; None if there is none.

        Raises:
            LossError: The loss fails.
        """
        if not self._residuals or self._residuals[0].targets.shape != targets.shape:
            self._residuals = self._draw(targets)
            self._known = ([], None)
        # A loss of the same value there is the same loss; its gradient costs three times as much.
        with torch.no_grad():
            values = [float(self._value(residual)) for residual in self._residuals]
        if values != self._known[0]:
            self._known = (values, self._found())
        return self._known[1]

    def _found(self) -> float | None:
        scales = [self._at(residual) for residual in self._residuals]
        first = scales[0]
        if first is None:
            return None
        for other in scales[1:]:
            if other is None or abs(other - first) > self._tolerance * abs(first):
                return None
        return first

    def _value(self, residual: _Residual) -> Tensor:
        f, y = residual.outputs.clone(), residual.targets.clone()
        return evaluate(self._loss, f, y, owned=True)

    def _draw(self, targets: Tensor) -> list[_Residual]:
        rows = len(targets)
        like = self._row.expand(rows, *self._row.shape[1:])
        # A single entry is proportional to anything, so there a second gradient is compared.
        count = 1 if like.numel() >= 4 else 2
        generator = torch.Generator().manual_seed(rows)
        return [_Residual.of(like, targets, self._exponent, generator) for _ in range(count)]

    def _at(self, residual: _Residual) -> float | None:
        """The number c if g is c times one residual."""
        with torch.enable_grad():
            value = self._value(residual)
            if not value.requires_grad:
                return None
            (g,) = torch.autograd.grad(value, residual.outputs)
        scales = g * residual.reciprocal
        c = float(scales[residual.largest])
        tolerance = self._tolerance * abs(c)
        gap = (scales - c).abs_()
        if float(gap.max()) <= tolerance:
            return c
        # Losses such as f² − 2 f y round relative to y, too.
        allowed = 1 + (residual.targets.view_as(gap) * residual.reciprocal).abs()
        return c if bool((gap <= tolerance * allowed).all()) else None


@dataclass(frozen=True)
class _Residual:
    """``y + r``, a leaf, and y; ``1/r`` and the place of the largest r."""

    outputs: Tensor
    reciprocal: Tensor
    largest: tuple[int, ...]
    targets: Tensor

    @classmethod
    def of(
        cls, like: Tensor, targets: Tensor, exponent: int, generator: torch.Generator
    ) -> _Residual:
        powers = torch.randint(-10, 11, like.shape, generator=generator) + exponent
        sign = torch.randint(0, 2, like.shape, generator=generator, dtype=torch.float64) * 2 - 1
        residual = torch.ldexp(sign, powers).to(like.dtype).to(like.device)
        place = torch.unravel_index(residual.abs().argmax(), residual.shape)
        largest = tuple(int(i) for i in place)
        integers = torch.randint(-4, 5, targets.shape, generator=generator, dtype=torch.float64)
        y = torch.ldexp(integers, torch.tensor(exponent)).to(targets)
        # Of another shape the targets would couple rows: the loss shows it.
        f = y.view_as(residual) + residual
        return cls(f.requires_grad_(), 1 / residual, largest, y)


def _is_affine_between_rows(
    gradient: Gradient, here: Tensor, outputs: Tensor, targets: Tensor
) -> bool:
    if len(outputs) < 2:
        return True
    f, y = outputs.roll(1, 0), targets.roll(1, 0)
    there = gradient(f, y)
    for share in (0.5, 0.125):
        between = gradient(torch.lerp(outputs, f, share), torch.lerp(targets, y, share))
        terms = (between, (1 - share) * here, share * there)
        if not _vanishes(terms[0] - terms[1] - terms[2], *terms):
            return False
    return True


def _steps(outputs: Tensor, targets: Tensor) -> Iterator[tuple[tuple[Tensor, Tensor], ...]]:
    """Pairs of steps (in outputs, in targets), ever longer."""
    generator = torch.Generator().manual_seed(0)
    size = magnitude_of(outputs, targets)

    def normal(like: Tensor, scale: float) -> Tensor:
        drawn = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        return (scale * drawn).to(like.dtype).to(like.device)

    draws = 2 if outputs.numel() >= _FEW_ENTRIES else 6
    for magnitude in _MAGNITUDES:
        for _ in range(draws):
            first, second = (
                (normal(outputs, magnitude * size), normal(targets, magnitude * size))
                for _ in range(2)
            )
            yield first, second


def _is_parallelogram(
    gradient: Gradient,
    here: Tensor,
    point: tuple[Tensor, Tensor],
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
) -> bool:
    """``g(z + d + e) − g(z + d) − g(z + e) + g(z) = 0``."""
    (f, y), (r, s), (q, t) = point, first, second
    both = gradient(f + r + q, y + s + t)
    one, other = gradient(f + r, y + s), gradient(f + q, y + t)
    return _vanishes(both - one - other + here, both, one, other, here)


def _vanishes(defect: Tensor, *terms: Tensor) -> bool:
    """Whether a sum of terms is zero to rounding, entry by entry."""
    sizes = torch.stack([term.abs() for term in terms]).sum(0)
    eps = torch.finfo(defect.dtype).eps
    # Entries that are sums over many others carry those' rounding.
    bound = 1e3 * eps * sizes + 1e2 * eps * sizes.max()
    return bool(torch.isfinite(sizes).all()) and bool((defect.abs() <= bound).all())
