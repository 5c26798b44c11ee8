"""Whether the optimizer is about to use the gradient that the lens was told about."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property

import torch
from torch import Tensor

from telescope_core.errors import TrainingMismatchError, listed
from telescope_core.network.layout import ParameterLayout

# Gradients this far below the largest one seen, in units of rounding, are noise.
_NOISE_IN_ROUNDINGS = 100.0
# Relative size up to which kinks and the rounding of coarse kernels may account for a difference.
_KINK = 0.05


class SeenGradient:
    """The gradient that the optimizer is about to use, and how the batch's own is had.

    Args:
        take: Gives the gradient stored in the parameters, shape ``(p,)``.
        recomputed: Backpropagates the batch the way training does, hooks apart.
        computed_in: Precision of training under autocast, if there is one.
        frozen: Rows of θ whose parameters do not require a gradient now.
        touched: Whether a gradient was written to after backpropagation.
        compiled: Whether training runs other kernels than backpropagation here.
        suspects: Says what may have made the gradient another one.
    """

    def __init__(
        self,
        take: Callable[[], Tensor],
        recomputed: Callable[[], Tensor],
        *,
        computed_in: torch.dtype | None = None,
        frozen: tuple[slice, ...] = (),
        touched: bool = False,
        compiled: bool = False,
        suspects: Callable[[], list[str]] = list,
    ) -> None:
        self._take = take
        self.recomputed = recomputed
        self.computed_in = computed_in
        self.frozen = frozen
        self.touched = touched
        self.compiled = compiled
        self.suspects = suspects

    @cached_property
    def gradient(self) -> Tensor:
        """What is stored in the parameters, shape ``(p,)``; not looked at before it is needed."""
        return self._take()


class GradientCheck:
    """Compares ``p.grad`` right before ``optimizer.step()`` with ``J(X_B)ᵀ g``, by parameter.

    A common factor is fine and becomes part of the linear map: clipping by norm, loss scaling.
    Anything else (another batch, accumulated micro-batches, a penalty added to the loss, clipping
    by value, gradient noise, hooks that change gradients) would silently follow a different
    training run, so it is refused.

    At a kink (ReLU) two correct evaluations may differ by a whole unit of one row, because they
    round differently.  Such differences are small, and backpropagation through the model in the
    very kernels of training does not have them: both must hold.
    """

    def __init__(self, eps: float, layout: ParameterLayout) -> None:
        self._eps = eps
        self._tolerance = max(1e-6, self._eps**0.5)
        self._sizes = [segment.size for segment in layout.segments]
        self._names = [segment.name for segment in layout.segments]
        self._largest = 0.0

    def factor(self, seen: SeenGradient, expected: Tensor) -> float:
        """The factor c with ``gradient = c · expected``.

        Returns:
            c, exactly 1 where the two agree to rounding.

        Raises:
            TrainingMismatchError: There is no such factor; naming the parameters that differ.
        """
        actual = seen.gradient
        self._largest = max(self._largest, float(torch.linalg.vector_norm(expected)))
        factor, wrong = self._compare(actual, expected)
        if not wrong:
            return factor
        coarse = max(self._eps, torch.finfo(seen.computed_in or torch.float64).eps)
        # Micro-batches round otherwise than their rows at once.
        again = seen.recomputed()
        # Fused kernels round otherwise; what is zero but for rounding then differs altogether.
        floor = coarse * float(torch.linalg.vector_norm(again)) if seen.compiled else 0.0
        factor, really_wrong = self._compare(actual, again, coarse, floor)
        gap = float(torch.linalg.vector_norm(actual - factor * expected))
        size = abs(factor) * float(torch.linalg.vector_norm(expected))
        if not really_wrong and gap <= max(_KINK, 4 * coarse**0.5) * size + self._noise:
            return factor
        raise TrainingMismatchError(
            f"the gradient in the parameters (norm {float(torch.linalg.vector_norm(actual)):.3g}) "
            f"is not a multiple of the gradient of the given loss on the given batch (norm "
            f"{float(torch.linalg.vector_norm(expected)):.3g}); it differs in "
            f"{listed(really_wrong or wrong)}. {_blamed(seen.suspects())}Clipping by norm and loss "
            "scaling are followed. For accumulated micro-batches pass all their positions to one "
            "lens.step(); pass augmented rows as inputs=...; put weight decay into the optimizer "
            "instead of the loss; clipping by value, gradient noise, masks and hooks that change "
            "gradients need probes=None"
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""
        return {"state": torch.tensor([self._largest], dtype=torch.float64)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        (self._largest,) = tensors["state"].tolist()

    @property
    def _noise(self) -> float:
        # In half precision the roundings alone would let everything pass.
        share: float = min(_NOISE_IN_ROUNDINGS * self._eps, self._tolerance)
        return share * self._largest

    def _compare(
        self, actual: Tensor, expected: Tensor, coarse: float = 0.0, floor: float = 0.0
    ) -> tuple[float, list[str]]:
        """The best factor, and the parameters in which it leaves more than is allowed."""
        sizes = self._norms(expected)
        wrong = self._wrong(self._norms(actual - expected), sizes, coarse, floor)
        if not wrong:
            return 1.0, []
        norm = float(torch.linalg.vector_norm(expected))
        factor = float(actual @ expected) / (norm * norm) if norm > self._noise else math.nan
        # A kink is no reason to rescale.
        if factor > 0:
            gaps = self._norms(actual - factor * expected)
            rest = self._wrong(gaps, factor * sizes, coarse, factor * floor)
            if not rest:
                return factor, []
        return 1.0, wrong

    def _wrong(self, gaps: Tensor, sizes: Tensor, coarse: float, floor: float) -> list[str]:
        # Written so that NaN counts as wrong.
        good = gaps <= max(self._tolerance, coarse) * sizes + max(self._noise, floor)
        return [name for name, fine in zip(self._names, good.tolist(), strict=True) if not fine]

    def _norms(self, flat: Tensor) -> Tensor:
        """The norm of each parameter's rows, shape ``(parameters,)``."""
        return torch.stack(
            [torch.linalg.vector_norm(part) for part in torch.split(flat, self._sizes)]
        )


def _blamed(suspects: list[str]) -> str:
    return f"Look at this: {'; '.join(suspects[:5])}. " if suspects else ""
