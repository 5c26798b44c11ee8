"""What the zoo knows of a model: how it is built, what it takes, and whether it is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from math import prod

import torch
from torch import Generator, Tensor, nn

from telescope_core.errors import ModelError, TelescopeError
from telescope_core.testing.columns import Rows

Draw = Callable[[int, Generator], Rows]
"""``draw(rows, generator)`` makes that many rows of input."""


@dataclass(frozen=True)
class Refusal:
    """An error that has to come before any number is given.

    Attributes:
        errors: Classes of :mod:`telescope_core.errors`, one of which it is.
        pattern: Regular expression found in the message: what it has to name.
    """

    errors: tuple[type[TelescopeError], ...]
    pattern: str


#: For models whose copy in eval mode reads the original's parameters, or merges what is added.
OTHER_COPY = Refusal((ModelError,), "another function")


@dataclass(frozen=True)
class ZooModel:
    """A small model with inputs and targets that suit it.

    Attributes:
        name: Its name in the zoo.
        build: Makes the module, in the mode that it is used in.
        draw: Makes rows of input.
        output_shape: Shape of the outputs of one row, () or with k entries.
        reference: Makes the same function of the same parameters, under the same names, written
            plainly: for what row-by-row backpropagation cannot take (in-place operations on the
            input, reentrant checkpoints, sparse gradients).  ``None`` if ``build`` is plain.
        rules: Names of optimizers that it can be trained with; ``None`` for all.
        refused: What a lens with probes has to raise at attach or in its first steps.
        refused_without_probes: What a lens for predictions only has to raise.
        refused_as_copy: What has to be raised where a copy of it in eval mode is needed, since the
            copy cannot be made or is another function.
    """

    name: str
    build: Callable[[], nn.Module]
    draw: Draw
    output_shape: tuple[int, ...]
    _: KW_ONLY
    reference: Callable[[], nn.Module] | None = None
    rules: tuple[str, ...] | None = None
    refused: Refusal | None = None
    refused_without_probes: Refusal | None = None
    refused_as_copy: Refusal | None = None

    @property
    def outputs(self) -> int:
        """k, the number of outputs of one row."""
        return prod(self.output_shape)

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses that suit it and are not quadratic."""
        several = len(self.output_shape) == 1 and self.outputs > 1
        with_classes = ("cross-entropy", "cross-entropy-smoothed") if several else ()
        return (*with_classes, "huber", "binary-cross-entropy")

    def model(self, seed: int = 0) -> nn.Module:
        """Build the module in float64, leaving the global random state as it was."""
        return _built(self.build, seed)

    def plain_model(self, seed: int = 0) -> nn.Module:
        """Build the plain form, with the parameters and buffers of :meth:`model`."""
        if self.reference is None:
            return self.model(seed)
        plain = _built(self.reference, seed)
        plain.load_state_dict(self.model(seed).state_dict())
        return plain

    def inputs(self, rows: int, seed: int) -> Rows:
        """Draw rows of input: a tensor, or a tuple or dict of tensors with the rows first."""
        return self.draw(rows, torch.Generator().manual_seed(seed))

    def targets(self, rows: int, seed: int, kind: str = "real") -> Tensor:
        """Draw targets.

        Args:
            rows: How many.
            seed: Of the draw.
            kind: "real" or "binary" in the shape of the outputs, or "classes", indices (rows,).

        Returns:
            Float64 targets, or int64 class indices.

        Raises:
            ValueError: The kind is none of these, or classes are asked of a single output.
        """
        generator = torch.Generator().manual_seed(seed)
        if kind == "classes" and self.outputs > 1:
            return torch.randint(self.outputs, (rows,), generator=generator)
        if kind not in ("real", "binary"):
            raise ValueError(
                f"{self.name} has {self.outputs} output(s); expected kind 'real', 'binary' or, of "
                f"two or more, 'classes', got {kind!r}"
            )
        drawn = torch.randn((rows, *self.output_shape), generator=generator, dtype=torch.float64)
        return drawn if kind == "real" else (drawn > 0).double()


def _built(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    dtype = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The deprecated forms are in use, and so are in the zoo.
        torch.manual_seed(seed)
        torch.set_default_dtype(torch.float64)
        try:
            return build()
        finally:
            torch.set_default_dtype(dtype)


def real(*shape: int) -> Draw:
    """Rows of standard normal numbers of this shape."""
    return lambda rows, generator: torch.randn(
        (rows, *shape), generator=generator, dtype=torch.float64
    )


def tokens(vocabulary: int, *shape: int) -> Draw:
    """Rows of token indices of this shape."""
    return lambda rows, generator: torch.randint(vocabulary, (rows, *shape), generator=generator)


def several(*draws: Draw) -> Draw:
    """Rows of several tensors, for a model with that many positional arguments."""

    def draw(rows: int, generator: Generator) -> tuple[Tensor, ...]:
        drawn = [each(rows, generator) for each in draws]
        return tuple(leaf for leaf in drawn if isinstance(leaf, Tensor))

    return draw
