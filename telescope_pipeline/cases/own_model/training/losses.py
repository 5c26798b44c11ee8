"""The losses that have names, and the accuracies that go with them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from telescope_core.errors import LossError
from telescope_core.losses import Loss
from telescope_pipeline.study.training.measures import class_accuracy
from telescope_pipeline.study.user_calls import load


def loss_of(name: str) -> Loss:
    """Find a loss.

    Args:
        name: ``mse``, ``half_mse``, ``bce_with_logits``, ``cross_entropy`` or the place of a
            function of the user's.

    Returns:
        ``loss(outputs, targets) -> scalar``; outputs (rows, 1) suit targets (rows,).

    Raises:
        ParametersError: The user's function cannot be imported.
    """
    return _LOSSES[name] if name in _LOSSES else load("loss", name)


def accuracy_of(name: str) -> Callable[[Tensor, Tensor], float] | None:
    """Find the accuracy that belongs to a loss for classes; None for other losses."""
    return {"bce_with_logits": _binary_accuracy, "cross_entropy": class_accuracy}.get(name)


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return (_aligned(outputs, targets) - targets).square().mean()


def _half_mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * _mse(outputs, targets)


def _bce_with_logits(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(_aligned(outputs, targets), targets)


def _binary_accuracy(outputs: Tensor, targets: Tensor) -> float:
    right = (_aligned(outputs, targets) > 0) == (targets > 0.5)
    return float(right.double().mean())


def _aligned(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs in the shape of the targets, without broadcasting by accident."""
    if outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape != targets.shape:
        raise LossError(
            f"the outputs have shape {tuple(outputs.shape)}, the targets {tuple(targets.shape)}; "
            "expected the same, or one output for each target"
        )
    return outputs


_LOSSES: dict[str, Loss] = {
    "mse": _mse,
    "half_mse": _half_mse,
    "bce_with_logits": _bce_with_logits,
    "cross_entropy": functional.cross_entropy,
}
