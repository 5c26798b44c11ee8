"""Whether the optimizer is about to use the gradient that the lens was told about."""

from __future__ import annotations

import torch
from torch import Tensor

from telescope_core.errors import TrainingMismatchError

# Gradients this far below the largest one seen, in units of rounding, are noise.
_NOISE_IN_ROUNDINGS = 1e3


class GradientCheck:
    """Compares ``p.grad`` right before ``optimizer.step()`` with ``J(X_B)ᵀ g``.

    A common factor is fine and becomes part of the linear map: clipping by norm, loss scaling.
    Anything else (another batch, accumulated micro-batches, a penalty added to the loss, clipping
    by value, gradient noise) would silently follow a different training run, so it is refused.

    Args:
        precision: Dtype of the model's parameters.
    """

    def __init__(self, precision: torch.dtype) -> None:
        self._eps = torch.finfo(precision).eps
        self._tolerance = max(1e-6, self._eps**0.5)
        self._largest = 0.0

    def factor(self, actual: Tensor, expected: Tensor) -> float:
        """The factor c with ``actual = c · expected``.

        Args:
            actual: The gradient in the parameters, shape ``(p,)``.
            expected: ``J(X_B)ᵀ g``, shape ``(p,)``.

        Returns:
            c; exactly 1 when the two agree to rounding.

        Raises:
            TrainingMismatchError: There is no such factor.
        """
        norm = float(torch.linalg.vector_norm(expected))
        self._largest = max(self._largest, norm)
        noise = _NOISE_IN_ROUNDINGS * self._eps * self._largest
        difference = actual - expected
        allowed = self._tolerance * norm + noise
        if float(torch.linalg.vector_norm(difference)) <= allowed:
            return 1.0
        factor = float(actual @ expected) / max(norm, noise) ** 2
        rest = float(torch.linalg.vector_norm(actual - factor * expected))
        if factor > 0 and rest <= self._tolerance * factor * norm + noise:
            return factor
        size = float(torch.linalg.vector_norm(actual))
        raise TrainingMismatchError(
            f"the gradient in the parameters (norm {size:.3g}) is not a multiple of the gradient "
            f"of the given loss on the given batch (norm {norm:.3g}, best multiple {factor:.3g} "
            f"leaves {rest:.3g}). Clipping by norm and loss scaling are followed. For accumulated "
            "micro-batches pass all their positions to one lens.step(); pass augmented rows as "
            "inputs=...; put weight decay into the optimizer instead of the loss; clipping by "
            "value and gradient noise need probes=None"
        )
