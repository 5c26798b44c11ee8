"""What a loss must be for its second derivatives to describe it: no chance, nothing hidden."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from telescope_core.errors import LossError
from telescope_core.losses.calls import Argument, Loss, evaluate, gradient_of, push
from telescope_core.losses.quadratic import magnitude_of

_STEPS = (1e-3, 5e-4)
_STABLE = 0.02
_DIFFERENT = 0.1


def check_deterministic(loss: Loss, outputs: Tensor, targets: Tensor) -> None:
    """Refuse a loss that gives two values for the same rows.

    Raises:
        LossError: It is random, or changes with every call.
    """
    with torch.no_grad():
        first, second = (float(evaluate(loss, outputs, targets)) for _ in range(2))
    if abs(first - second) > 16 * torch.finfo(outputs.dtype).eps * abs(first):
        raise LossError(
            f"the loss gave {first!r} and {second!r} for the same outputs and targets; expected a "
            "function of the two: take noise, sampling and counters of its calls out of it, or "
            "use probes=None"
        )


def check_followed(loss: Loss, outputs: Tensor, targets: Tensor, of: Argument) -> None:
    r"""Refuse a gradient that depends on an argument in ways that differentiation does not see.

    ``.detach()``, ``torch.no_grad()`` and custom backward passes inside the loss change g, which
    training follows, but not its derivative.  The derivative is compared with differences of g
    over two small steps.  Entries where those disagree with each other, or the derivatives at both
    ends do, lie at a kink and say nothing.

    Raises:
        LossError: The two differ.
    """
    point = outputs if of == "outputs" else targets

    def arguments(moving: Tensor) -> tuple[Tensor, Tensor]:
        return (moving, targets) if of == "outputs" else (outputs, moving)

    def slope(at: Tensor, direction: Tensor) -> Tensor:
        return push(loss, of, *arguments(at), direction[..., None])[..., 0]

    uphill = gradient_of(loss, outputs, targets) if of == "outputs" else None
    for start, direction in _lines(point, uphill):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the loss, about values that training never sees
            try:
                ends = [start + h * direction for h in (0.0, *_STEPS)]
                here, *there = (gradient_of(loss, *arguments(end)) for end in ends)
                differences = [(g - here) / h for g, h in zip(there, _STEPS, strict=True)]
                slopes = [slope(ends[0], direction), slope(ends[1], direction)]
            except LossError:
                continue  # outside of where the loss is defined
        if _differ(slopes, differences, here):
            raise LossError(
                f"the gradient of the loss depends on the {of} in a way that its derivative does "
                "not show (.detach(), torch.no_grad() or a custom backward pass inside the loss, "
                "or probabilities that are 0 or 1 to rounding?), so the lens would follow another "
                "loss; compute such factors with gradients, or outside of the loss, or use "
                "probes=None"
            )
        return


def _lines(point: Tensor, uphill: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Starting points near the data and directions; the last line stays between its rows."""
    generator = torch.Generator().manual_seed(2)
    size = magnitude_of(point)

    def normal() -> Tensor:
        drawn = torch.randn(point.shape, generator=generator, dtype=torch.float64)
        return (size * drawn).to(point.dtype).to(point.device)

    lines = []
    # On other devices an argument outside of its domain ends the process, not only the call.
    if point.device.type == "cpu":
        direction = normal()
        if uphill is not None:  # along which a factor for the whole batch changes most
            direction += uphill * (size / magnitude_of(uphill))
        lines.append((point + 1e-2 * normal(), direction))
    inside = torch.lerp(point, point.roll(1, 0), 0.3)
    return [*lines, (inside, point.roll(2, 0) - inside)]


def _differ(slopes: list[Tensor], differences: list[Tensor], here: Tensor) -> bool:
    (first, second), (start, end) = differences, slopes
    sizes = torch.maximum(first.abs(), start.abs())
    rounding = 1e2 * torch.finfo(here.dtype).eps * float(here.abs().max()) / _STEPS[-1]
    noise = 1e-3 * float(first.abs().max()) + rounding
    unclear = torch.maximum((first - second).abs(), (start - end).abs())
    stable = unclear <= _STABLE * sizes + 0.1 * noise
    # A NaN compares false, and is found elsewhere.
    return bool((stable & ((first - start).abs() > _DIFFERENT * sizes + noise)).any())
