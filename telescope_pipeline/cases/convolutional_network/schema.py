"""Parameters of telescoping a small convolutional network (beyond the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    NonNegativeFloat,
    NonNegativeInt,
    OptimizerWithRate,
    Order,
    PlotSection,
    PositiveFloat,
    PositiveInt,
    Probes,
    Proportion,
    Scalar,
    Section,
    refuse,
    unique,
)

# Rows of the digits data set that scikit-learn ships.
DIGITS_ROWS = 1797
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


class TenDigits(_Images):
    """A disjoint split of the 8×8 digits."""

    source: Literal["digits"]

    @model_validator(mode="after")
    def _split_fits(self) -> Self:
        if self.train_size + self.test_size > DIGITS_ROWS:
            expected = f"at most {DIGITS_ROWS} rows in train_size and test_size together"
            raise refuse("test_size", expected)
        return self


class CIFAR10(_Images):
    """CIFAR-10 in colour at full size, drawn from its official splits."""

    source: Literal["cifar10"]


ImageData = Annotated[TenDigits | CIFAR10, Field(discriminator="source")]


class ConvolutionalModel(Section):
    """Stages of a convolution, ReLU and max pooling, of these widths, then one linear layer."""

    widths: Annotated[list[PositiveInt], Field(min_length=1)]


class CrossEntropyTraining(Section):
    """Minibatch training on cross-entropy for a number of passes over the data."""

    epochs: PositiveInt
    batch_size: PositiveInt
    optimizer: OptimizerWithRate


class LayeredLens(Section):
    """How the run is telescoped, with kernel norms and shares of layers, and recorded.

    Attributes:
        chunk_size: Rows of a set linearised at once; all if null.
    """

    order: Order = 2
    stride: PositiveInt = 10
    probes: Probes = 48
    deflate: NonNegativeInt = 12
    chunk_size: PositiveInt | None = None
    records: PositiveInt = 16
    checkpoint_every: PositiveInt = 200


class ConvolutionalClaims(Section):
    """Thresholds of the claims.

    Attributes:
        closer_than_lazy: Factor by which f̃ must be closer to f than the lazy linearisation is.
        convolution_share: Part of the effective parameters on training points that the
            convolutions together must exceed.
        standard_errors: A difference counts as one if it exceeds this many.
    """

    closer_than_lazy: PositiveFloat = 10.0
    convolution_share: Proportion = 0.5
    standard_errors: NonNegativeFloat = 2.0


class ConvolutionalNetworkCase(Case):
    """A case of kind ``convolutional_network``; its members differ by label noise and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/loss",
        "test/loss",
        "train/accuracy",
        "test/accuracy",
        "train/effective_parameters",
        "test/effective_parameters",
        "test/approximation_error",
        "test/linearization_error",
    )

    kind: Literal["convolutional_network"]
    data: ImageData
    model: ConvolutionalModel
    training: CrossEntropyTraining
    lens: LayeredLens
    claims: ConvolutionalClaims
    plot: PlotSection

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        if isinstance(self.lens.probes, int) and self.lens.deflate > self.lens.probes:
            raise refuse("lens.deflate", f"at most lens.probes ({self.lens.probes})")
        if self.training.batch_size > self.data.train_size:
            expected = f"at most data.train_size ({self.data.train_size})"
            raise refuse("training.batch_size", expected)
        side = SIDES[self.data.source]
        if side >> len(self.model.widths) < 1:
            expected = f"at most {side.bit_length() - 1} widths for images of {side} pixels a side"
            raise refuse("model.widths", expected)
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the sweep to ``values["label_noise"]``; see :meth:`Case.narrowed`."""
        data = self.data.model_copy(update={"label_noise": [values["label_noise"]]})
        return self.model_copy(update={"data": data, "seeds": seed + 1})
