"""Parameters of telescoping deep networks, plain and residual (beyond the paper; Eq. 5 i)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    NonNegativeFloat,
    OptimizerWithRate,
    PlotSection,
    PositiveFloat,
    PositiveInt,
    Proportion,
    Scalar,
    Section,
    refuse,
    unique,
)

# Rows of the digits data set that scikit-learn ships.
DIGITS_ROWS = 1797

Architecture = Literal["plain", "residual"]


class SplitDigits(Section):
    """A disjoint split of the 8×8 digits, odd against even."""

    train_size: PositiveInt
    test_size: PositiveInt

    @model_validator(mode="after")
    def _split_fits(self) -> Self:
        if self.train_size + self.test_size > DIGITS_ROWS:
            expected = f"at most {DIGITS_ROWS} rows in train_size and test_size together"
            raise refuse("test_size", expected)
        return self


class DepthSweep(Section):
    """Networks of every depth and architecture.

    Attributes:
        depths: Hidden layers between the first layer and the readout.
        architectures: ``plain``, ``residual`` or both.
        width: Units of every hidden layer.
        activation: Between layers.
    """

    depths: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(unique)]
    architectures: Annotated[list[Architecture], Field(min_length=1), AfterValidator(unique)]
    width: PositiveInt
    activation: Literal["tanh", "relu"] = "tanh"


class DepthTraining(Section):
    """Minibatch training with the same settings at every depth."""

    steps: PositiveInt
    batch_size: PositiveInt
    optimizer: OptimizerWithRate


class BothOrders(Section):
    """Lenses of first and of second order on the same run, at one stride."""

    stride: PositiveInt = 10
    records: PositiveInt = 16
    checkpoint_every: PositiveInt = 100


class DepthClaims(Section):
    """Thresholds of the claims.

    Attributes:
        trained_accuracy: Train accuracy from which a network counts as trained.
        broken_error: Mean |f − f̃| on test points from which telescoping counts as broken; the
            default is a tenth of the distance between the two labels.
        standard_errors: A difference counts as one if it exceeds this many.
    """

    trained_accuracy: Proportion = 0.85
    broken_error: PositiveFloat = 0.1
    standard_errors: NonNegativeFloat = 2.0


class DepthCase(Case):
    """A case of kind ``depth``; its members differ by architecture, depth and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "test/mse",
        "test/linearization_error",
        "test/approximation_error@order1",
        "test/approximation_error@order2",
    )

    kind: Literal["depth"]
    data: SplitDigits
    model: DepthSweep
    training: DepthTraining
    lens: BothOrders
    claims: DepthClaims
    plot: PlotSection

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        if self.training.batch_size > self.data.train_size:
            expected = f"at most data.train_size ({self.data.train_size})"
            raise refuse("training.batch_size", expected)
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the sweep to one architecture and depth; see :meth:`Case.narrowed`."""
        one = {"depths": [values["depth"]], "architectures": [values["architecture"]]}
        model = self.model.model_copy(update=one)
        return self.model_copy(update={"model": model, "seeds": seed + 1})
