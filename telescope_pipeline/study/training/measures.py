"""What is measured on the outputs of a network, accumulated in float64 where it is a mean."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

Row = dict[str, int | float]


def half_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared error of outputs (rows, 1) against targets (rows,), a scalar."""
    return 0.5 * (outputs.squeeze(-1) - targets).square().mean()


def squared_error(outputs: Tensor, targets: Tensor) -> float:
    """Mean squared error of outputs (rows, 1) or (rows,), accumulated in float64."""
    errors = outputs.reshape(targets.shape).cpu().double() - targets.cpu().double()
    return float(errors.square().mean())


def mean_cross_entropy(outputs: Tensor, classes: Tensor) -> float:
    """Mean cross-entropy of outputs (rows, k) for classes (rows,), accumulated in float64."""
    return float(functional.cross_entropy(outputs.cpu().double(), classes.cpu()))


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Part of the rows on the right side of 1/2, for targets 0 and 1."""
    right = (outputs.reshape(targets.shape) > 0.5) == (targets > 0.5)
    return int(right.sum()) / len(targets)


def class_accuracy(outputs: Tensor, classes: Tensor) -> float:
    """Part of the rows whose largest output (rows, k) is that of their class (rows,)."""
    return int((outputs.argmax(dim=-1) == classes).sum()) / len(classes)


def outputs_of(model: nn.Module, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs on ``train`` and ``test``, from ``<set>_inputs``."""
    return {name: model(data[f"{name}_inputs"]) for name in ("train", "test")}


def fit(outputs: Mapping[str, Tensor], data: Mapping[str, Tensor]) -> Row:
    """Errors and accuracies of a network on its two sets.

    Args:
        outputs: Of ``train`` and ``test``, (rows, 1).
        data: ``<set>_targets`` (rows,) of both; ``train_clean_targets`` too, if labels were
            changed.

    Returns:
        ``<set>/mse`` and ``<set>/accuracy``, and ``train/clean_accuracy`` where it applies.
    """
    row: Row = {
        f"{name}/mse": squared_error(seen, data[f"{name}_targets"])
        for name, seen in outputs.items()
    }
    row["train/accuracy"] = accuracy(outputs["train"], data["train_targets"])
    if "train_clean_targets" in data:
        row["train/clean_accuracy"] = accuracy(outputs["train"], data["train_clean_targets"])
    row["test/accuracy"] = accuracy(outputs["test"], data["test_targets"])
    return row
