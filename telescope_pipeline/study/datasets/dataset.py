"""What every data source returns: four tensors and a card that says where they come from."""

from __future__ import annotations

from collections import Counter
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
        names = ("train_inputs", "train_targets", "test_inputs", "test_targets")
        named = {name: getattr(self, name) for name in names} | self.extras
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
        counts = Counter(targets.long().tolist())
        described["classes"] = {str(label): counts[label] for label in sorted(counts)}
    else:
        exact = targets.double()
        described["target_mean"] = round(float(exact.mean()), 6)
        described["target_std"] = round(float(exact.std()), 6)
    return described


def describe_noise(proportion: float = 0.0, seed: int | None = None, flipped: int = 0) -> Any:
    """What a card says of label noise; by default that there is none."""
    return {"proportion": proportion, "seed": seed, "flipped": flipped}
