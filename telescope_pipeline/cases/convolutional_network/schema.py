"""Parameters of telescoping a small convolutional network (beyond the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    DeflatedLens,
    DigitsSplit,
    EpochTraining,
    PositiveFloat,
    PositiveInt,
    Proportion,
    Section,
    batch_fits,
    refuse,
    unique,
)

# Pixels along a side of the images of each source.
SIDES = {"digits": 8, "cifar10": 32}


class _Images(Section):
    """Images of ten classes.

    Attributes:
        label_noise: Proportions of training labels that are given another class; one run each.
    """

    train_size: PositiveInt
    test_size: PositiveInt
    label_noise: Annotated[list[Proportion], Field(min_length=1), AfterValidator(unique)]


class TenDigits(_Images, DigitsSplit):
    """A disjoint split of the 8×8 digits."""

    source: Literal["digits"]


class CIFAR10(_Images):
    """CIFAR-10 in colour at full size, drawn from its official splits."""

    source: Literal["cifar10"]


ImageData = Annotated[TenDigits | CIFAR10, Field(discriminator="source")]


class ConvolutionalModel(Section):
    """Stages of a convolution, ReLU and max pooling, of these widths, then one linear layer."""

    widths: Annotated[list[PositiveInt], Field(min_length=1)]


class LayeredLens(DeflatedLens):
    """How the run is telescoped, with kernel norms and shares of layers, and recorded.

    Attributes:
        chunk_size: Rows of a set linearised at once; all if null.
    """

    chunk_size: PositiveInt | None = None
    records: PositiveInt = 16
    checkpoint_every: PositiveInt = 200


class ConvolutionalClaims(Claims):
    """Thresholds of the claims.

    Attributes:
        closer_than_lazy: Factor by which f̃ must be closer to f than the lazy linearisation is.
        convolution_share: Part of the degrees of freedom that the convolutions together must
            exceed.
    """

    closer_than_lazy: PositiveFloat = 10.0
    convolution_share: Proportion = 0.5


class ConvolutionalNetworkCase(Case):
    """A case of kind ``convolutional_network``; its members differ by label noise and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/loss",
        "test/loss",
        "train/accuracy",
        "test/accuracy",
        "train/degrees_of_freedom",
        "train/logit_sensitivity",
        "test/logit_sensitivity",
        "test/approximation_error",
        "test/linearization_error",
    )

    swept: ClassVar[Mapping[str, str]] = {"label_noise": "data.label_noise"}

    kind: Literal["convolutional_network"]
    data: ImageData
    model: ConvolutionalModel
    training: EpochTraining
    lens: LayeredLens
    claims: ConvolutionalClaims

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        batch_fits(self.training.batch_size, self.data.train_size)
        side = SIDES[self.data.source]
        if side >> len(self.model.widths) < 1:
            expected = f"at most {side.bit_length() - 1} widths for images of {side} pixels a side"
            raise refuse("model.widths", expected)
        return self
