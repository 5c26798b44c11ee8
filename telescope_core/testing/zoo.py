"""Small models, optimizers and losses by name, all in float64 and all seeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer

Loss = Callable[[Tensor, Tensor], Tensor]


class RandomFeatures(nn.Module):
    """Linear in its parameters, with outputs (n,) if ``outputs`` is 0 and (n, outputs) else."""

    def __init__(self, features: int = 9, outputs: int = 0) -> None:
        super().__init__()
        self.projection: Tensor
        self.register_buffer("projection", torch.randn(4, features))
        self.readout = nn.Linear(features, max(outputs, 1))
        self.squeeze = outputs == 0

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 4) to the outputs."""
        y: Tensor = self.readout(torch.tanh(x @ self.projection))
        return y[:, 0] if self.squeeze else y


class Perceptron(nn.Module):
    """Two hidden layers; outputs (n,) if ``outputs`` is 0 and (n, outputs) else."""

    def __init__(self, outputs: int = 0, *, sigmoid: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 5)
        self.third = nn.Linear(5, max(outputs, 1))
        self.squeeze = outputs == 0
        self.sigmoid = sigmoid

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 4) to the outputs."""
        y: Tensor = self.third(functional.gelu(self.second(torch.tanh(self.first(x)))))
        if self.sigmoid:
            y = torch.sigmoid(y)
        return y[:, 0] if self.squeeze else y


class Tied(nn.Module):
    """One linear layer used twice, and its weight used once more transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.readout = nn.Linear(4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 4) to (n, 2)."""
        h = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        y: Tensor = self.readout(h @ self.shared.weight)
        return y


class Convolution(nn.Module):
    """A strided convolution, LayerNorm and a linear readout of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, kernel_size=2, stride=2)
        self.norm = nn.LayerNorm([3, 2, 2])
        self.readout = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, 1, 4, 4) to (n, 2)."""
        h = torch.tanh(self.norm(self.convolution(x)))
        y: Tensor = self.readout(h.flatten(1))
        return y


class Attention(nn.Module):
    """One block of self-attention over short token sequences, three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.project = nn.Linear(4, 12)
        self.norm = nn.LayerNorm(4)
        self.readout = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map token indices (n, length) to (n, 3)."""
        h = self.embedding(tokens)
        query, key, value = self.project(self.norm(h)).chunk(3, dim=-1)
        weights = torch.softmax(query @ key.transpose(-2, -1) / 2.0, dim=-1)
        y: Tensor = self.readout((h + weights @ value).mean(dim=1))
        return y


class Recurrent(nn.Module):
    """A recurrent module over short sequences and a linear readout of its last state."""

    def __init__(self, recurrent: nn.RNNBase, outputs: int) -> None:
        super().__init__()
        self.recurrent = recurrent
        directions = 2 if recurrent.bidirectional else 1
        self.readout = nn.Linear(directions * recurrent.hidden_size, max(outputs, 1))
        self.squeeze = outputs == 0

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, length, features) to the outputs, (n,) if ``outputs`` is 0."""
        states, _ = self.recurrent(x)
        y: Tensor = self.readout(states[:, -1])
        return y[:, 0] if self.squeeze else y


@dataclass(frozen=True)
class Specimen:
    """A small model with inputs that suit it.

    Attributes:
        name: Its name in :data:`SPECIMENS`.
        build: Makes the module.
        input_shape: Shape of one input.
        outputs: k.
        output_shape: Shape of the outputs of one input, () or (k,).
        tokens: Size of the vocabulary for integer inputs, 0 for real ones.
        linear: Whether the model is linear in its parameters.
    """

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    outputs: int
    output_shape: tuple[int, ...]
    tokens: int = 0
    linear: bool = False

    def model(self, seed: int = 0) -> nn.Module:
        """Build the model in float64, leaving the global random state as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build().double()

    def inputs(self, rows: int, seed: int) -> Tensor:
        """Draw inputs, ``input_shape`` for each row."""
        generator = torch.Generator().manual_seed(seed)
        shape = (rows, *self.input_shape)
        if self.tokens:
            return torch.randint(self.tokens, shape, generator=generator)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def targets(self, rows: int, seed: int, kind: str = "real") -> Tensor:
        """Draw targets of a kind.

        Args:
            rows: How many.
            seed: Of the draw.
            kind: "real" or "binary" in the shape of the outputs, or "classes", indices (rows,).

        Returns:
            Float64 targets, or int64 class indices.

        Raises:
            ValueError: If the kind is unknown, or classes are asked of a single output.
        """
        generator = torch.Generator().manual_seed(seed)
        if kind == "classes":
            if self.outputs < 2:
                raise ValueError(f"{self.name} has one output, so there are no classes to draw")
            return torch.randint(self.outputs, (rows,), generator=generator)
        real = torch.randn((rows, *self.output_shape), generator=generator, dtype=torch.float64)
        if kind == "real":
            return real
        if kind == "binary":
            return (real > 0).double()
        raise ValueError(f"kind must be 'real', 'binary' or 'classes', got {kind!r}")


SPECIMENS: dict[str, Specimen] = {
    specimen.name: specimen
    for specimen in (
        Specimen("random-features", RandomFeatures, (4,), 1, (), linear=True),
        Specimen(
            "random-features-3", lambda: RandomFeatures(outputs=3), (4,), 3, (3,), linear=True
        ),
        Specimen("mlp-vector", Perceptron, (4,), 1, ()),
        Specimen("mlp-column", lambda: Perceptron(outputs=1), (4,), 1, (1,)),
        Specimen("mlp-outputs", lambda: Perceptron(outputs=3), (4,), 3, (3,)),
        Specimen("sigmoid", lambda: Perceptron(outputs=0, sigmoid=True), (4,), 1, ()),
        Specimen("tied", Tied, (4,), 2, (2,)),
        Specimen("convolution", Convolution, (1, 4, 4), 2, (2,)),
        Specimen("attention", Attention, (5,), 3, (3,), tokens=7),
        Specimen("lstm", lambda: Recurrent(nn.LSTM(2, 3, 2, batch_first=True), 2), (3, 2), 2, (2,)),
        Specimen(
            "gru",
            lambda: Recurrent(nn.GRU(2, 3, batch_first=True, bidirectional=True), 0),
            (4, 2),
            1,
            (),
        ),
    )
}


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


#: Optimizers by name; the learning rates suit the models above.
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
