"""What every data source returns: four tensors and a card that says where they come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Training and test tensors with their card.

    Attributes:
        train_inputs: (n, ...), float32, or int64 for tokens; (n, d) for most sources.
        train_targets: (n,), float32 for numbers and binary labels, int64 for more classes.
        test_inputs: (n_test, ...), like the training inputs.
        test_targets: (n_test,), like the training targets.
        card: JSON-able description: source, licence, shapes, class counts, normalisation, seeds.
        extras: Further tensors by name, e.g. the training labels before noise was added.
    """

    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    card: dict[str, Any]
    extras: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, contiguous, in a fixed order."""
        named = {
            "train_inputs": self.train_inputs,
            "train_targets": self.train_targets,
            "test_inputs": self.test_inputs,
            "test_targets": self.test_targets,
            **self.extras,
        }
        return {name: tensor.contiguous() for name, tensor in named.items()}


def describe_split(inputs: Tensor, targets: Tensor, *, classes: bool) -> dict[str, Any]:
    """Describe one split for a card.

    Args:
        inputs: (rows, d).
        targets: (rows,).
        classes: Whether the targets are class labels to be counted, or real numbers.

    Returns:
        Shapes, dtype and class counts; for real-valued targets their mean and standard deviation.
    """
    described: dict[str, Any] = {
        "inputs": list(inputs.shape),
        "targets": list(targets.shape),
        "dtype": str(inputs.dtype).removeprefix("torch."),
    }
    if classes:
        labels = targets.long()
        described["classes"] = {
            str(label): int((labels == label).sum()) for label in sorted(set(labels.tolist()))
        }
    else:
        exact = targets.double()
        described["target_mean"] = round(float(exact.mean()), 6)
        described["target_std"] = round(float(exact.std()), 6)
    return described
