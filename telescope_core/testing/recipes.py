"""Losses and optimizers by name, for training the models of the zoo."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

Loss = Callable[[Tensor, Tensor], Tensor]


def _half_squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * ((outputs - targets) ** 2).sum() / len(outputs)


#: Losses with the kind of targets that they take.
LOSSES: dict[str, tuple[Loss, str]] = {
    "half-squared": (_half_squared, "real"),
    "mse": (nn.MSELoss(), "real"),
    "mse-sum": (nn.MSELoss(reduction="sum"), "real"),
    "huber": (nn.HuberLoss(delta=0.7), "real"),
    "binary-cross-entropy": (nn.BCEWithLogitsLoss(), "binary"),
    "cross-entropy": (nn.CrossEntropyLoss(), "classes"),
    "cross-entropy-smoothed": (nn.CrossEntropyLoss(label_smoothing=0.1), "classes"),
}


def _two_groups(model: nn.Module) -> list[dict[str, object]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": parameters[::2], "lr": 0.07, "weight_decay": 0.2},
        {"params": parameters[1::2], "lr": 0.02, "weight_decay": 0.0},
    ]


#: Optimizers by name; the learning rates suit the models of the zoo.
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.1),
    "sgd-decay": lambda m: SGD(m.parameters(), lr=0.1, weight_decay=0.05),
    "sgd-momentum": lambda m: SGD(m.parameters(), lr=0.05, momentum=0.9),
    "sgd-dampening": lambda m: SGD(
        m.parameters(), lr=0.1, momentum=0.8, dampening=0.3, weight_decay=0.1
    ),
    "sgd-nesterov": lambda m: SGD(
        m.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "sgd-maximize": lambda m: SGD(
        m.parameters(), lr=0.01, momentum=0.5, weight_decay=0.1, maximize=True
    ),
    "sgd-groups": lambda m: SGD(_two_groups(m), lr=0.1, momentum=0.6),
    "adam": lambda m: Adam(m.parameters(), lr=0.02),
    "adam-decay": lambda m: Adam(m.parameters(), lr=0.02, betas=(0.8, 0.95), weight_decay=0.1),
    "adam-maximize": lambda m: Adam(m.parameters(), lr=0.01, weight_decay=0.1, maximize=True),
    "adam-groups": lambda m: Adam(_two_groups(m), lr=0.1),
    "adamw": lambda m: AdamW(m.parameters(), lr=0.02, betas=(0.9, 0.99), weight_decay=0.3),
    "adamw-groups": lambda m: AdamW(_two_groups(m), lr=0.1),
}
