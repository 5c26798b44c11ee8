"""Whether the optimizer is about to use the gradient that the lens was told about."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from telescope_core.errors import TrainingMismatchError

# Gradients this far below the largest one seen, in units of rounding, are noise.
_NOISE_IN_ROUNDINGS = 1e3
# Relative size up to which a lone difference may come from a kink.
_KINK = 0.05


class GradientCheck:
    """Compares ``p.grad`` right before ``optimizer.step()`` with ``J(X_B)ᵀ g``.

    A common factor is fine and becomes part of the linear map: clipping by norm, loss scaling.
    Anything else (another batch, accumulated micro-batches, a penalty added to the loss, clipping
    by value, gradient noise) would silently follow a different training run, so it is refused.

    At a kink (ReLU) two correct evaluations may differ by a whole unit of one row, because they
    round differently.  Such differences are small and rare, so a small one is let pass unless the
    step before had one, too.

    Args:
        precision: Dtype of the model's parameters.
    """

    def __init__(self, precision: torch.dtype) -> None:
        self._eps = torch.finfo(precision).eps
        self._tolerance = max(1e-6, self._eps**0.5)
        self._largest = 0.0
        self._differed_before = False

    def factor(self, actual: Tensor, expected: Tensor, recomputed: Callable[[], Tensor]) -> float:
        """The factor c with ``actual = c · expected``.

        Args:
            actual: The gradient in the parameters, shape ``(p,)``.
            expected: ``J(X_B)ᵀ g``, shape ``(p,)``.
            recomputed: Computes the batch's gradient the way training does; asked for when the
                two disagree.

        Returns:
            c; exactly 1 when the two agree to rounding.

        Raises:
            TrainingMismatchError: There is no such factor.
        """
        factor, rest = self._compare(actual, expected)
        if rest > 1:
            factor, rest = self._compare(actual, recomputed())
        small = rest <= _KINK / self._tolerance
        if rest > 1 and (self._differed_before or not small):
            size = float(torch.linalg.vector_norm(actual))
            norm = float(torch.linalg.vector_norm(expected))
            raise TrainingMismatchError(
                f"the gradient in the parameters (norm {size:.3g}) is not a multiple of the "
                f"gradient of the given loss on the given batch (norm {norm:.3g}). Clipping by "
                "norm and loss scaling are followed. For accumulated micro-batches pass all their "
                "positions to one lens.step(); pass augmented rows as inputs=...; put weight decay "
                "into the optimizer instead of the loss; clipping by value and gradient noise need "
                "probes=None"
            )
        self._differed_before = rest > 1
        return factor

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to go on, for checkpoints."""
        state = [self._largest, float(self._differed_before)]
        return {"state": torch.tensor(state, dtype=torch.float64)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` gave."""
        largest, differed = tensors["state"].tolist()
        self._largest, self._differed_before = largest, bool(differed)

    def _compare(self, actual: Tensor, expected: Tensor) -> tuple[float, float]:
        """The best factor, and what it leaves in units of what is allowed."""
        norm = float(torch.linalg.vector_norm(expected))
        self._largest = max(self._largest, norm)
        # In half precision the roundings alone would let everything pass.
        noise = min(_NOISE_IN_ROUNDINGS * self._eps, self._tolerance) * self._largest
        gap = float(torch.linalg.vector_norm(actual - expected)) / (self._tolerance * norm + noise)
        if gap <= 1:
            return 1.0, gap
        factor = float(actual @ expected) / max(norm, noise) ** 2
        rest = float(torch.linalg.vector_norm(actual - factor * expected))
        scaled = rest / (self._tolerance * factor * norm + noise) if factor > 0 else math.inf
        # A kink is no reason to rescale.
        return (factor, scaled) if scaled <= 1 else (1.0, gap)
