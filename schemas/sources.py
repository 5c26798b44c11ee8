"""Where the images and signals of two classes come from, for the kinds of case that classify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from telescope_pipeline.schemas.sections import (
    DigitsSplit,
    PositiveInt,
    Proportion,
    Section,
    unique,
)

_Digit = Annotated[int, Field(ge=0, le=9)]
_ImageName = Literal[
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]
_TwoDigits = Annotated[list[_Digit], Field(min_length=2, max_length=2), AfterValidator(unique)]


class _NoisyLabels(Section):
    """A share of the training labels is flipped; test labels stay clean.

    Attributes:
        label_noise: That share.
    """

    label_noise: Proportion = 0.0

    def _described(self, data: str) -> str:
        if not self.label_noise:
            return data
        return f"{data}, {100 * self.label_noise:g} % of training labels flipped"


class DigitsSource(DigitsSplit, _NoisyLabels):
    """The 8×8 digits of scikit-learn, even as 0 and odd as 1."""

    source: Literal["digits"]

    @property
    def description(self) -> str:
        """The data in a few words, for captions."""
        return self._described("Digits (8×8), odd against even")


class _SmallImages(_NoisyLabels):
    """Two classes of a set of images, averaged over areas to ``side`` × ``side`` gray pixels."""

    side: PositiveInt = 8
    train_size: PositiveInt = 1000
    test_size: PositiveInt = 1000


class MNISTSource(_SmallImages):
    """Two digits of MNIST; the paper takes 3 and 5 at 8×8 pixels."""

    source: Literal["mnist"]
    classes: _TwoDigits = Field(default_factory=lambda: [3, 5])
    side: Annotated[int, Field(ge=1, le=28)] = 8

    @property
    def description(self) -> str:
        """The data in a few words, for captions."""
        zero, one = self.classes
        return self._described(f"MNIST ({self.side}×{self.side}), {zero} against {one}")


def _cats_and_dogs() -> list[_ImageName]:
    return ["cat", "dog"]


class CIFAR10Source(_SmallImages):
    """Two classes of CIFAR-10 in gray; the paper takes cats and dogs at 8×8 pixels."""

    source: Literal["cifar10"]
    classes: Annotated[
        list[_ImageName], Field(min_length=2, max_length=2), AfterValidator(unique)
    ] = Field(default_factory=_cats_and_dogs)
    side: Annotated[int, Field(ge=1, le=32)] = 8

    @property
    def description(self) -> str:
        """The data in a few words, for captions."""
        zero, one = self.classes
        return self._described(f"CIFAR-10 ({self.side}×{self.side}, gray), {zero} against {one}")


class MNIST1DSource(_NoisyLabels):
    """Two classes of MNIST-1D at its package's sizes; two classes leave about 800 signals."""

    source: Literal["mnist1d"]
    classes: _TwoDigits = Field(default_factory=lambda: [0, 1])

    @property
    def train_size(self) -> int | None:
        """Not a parameter here: it follows from the classes."""
        return None

    @property
    def description(self) -> str:
        """The data in a few words, for captions."""
        zero, one = self.classes
        return self._described(f"MNIST-1D, class {zero} against {one}")


ImageSource = Annotated[DigitsSource | MNISTSource | CIFAR10Source, Field(discriminator="source")]
BinarySource = Annotated[
    DigitsSource | MNISTSource | CIFAR10Source | MNIST1DSource, Field(discriminator="source")
]


def source_or(default: str) -> BeforeValidator:
    """Build a validator that reads data without a ``source`` as data of the default one."""

    def complete(data: Any) -> Any:
        if isinstance(data, dict) and "source" not in data:
            return {"source": default, **data}
        return data

    validate: Callable[[Any], Any] = complete
    return BeforeValidator(validate)
