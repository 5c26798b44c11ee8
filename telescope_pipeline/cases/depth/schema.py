"""Parameters of telescoping deep networks, plain and residual (beyond the paper; Eq. 5 i)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    DigitsSplit,
    MinibatchTraining,
    OptimizerWithRate,
    PositiveFloat,
    PositiveInt,
    Proportion,
    Section,
    batch_fits,
    unique,
)

Architecture = Literal["plain", "residual"]


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


class DepthTraining(MinibatchTraining):
    """Minibatch training with the same settings at every depth."""

    optimizer: OptimizerWithRate


class BothOrders(Section):
    """Lenses of first and of second order on the same run, at one stride."""

    stride: PositiveInt = 10
    records: PositiveInt = 16
    checkpoint_every: PositiveInt = 100


class DepthClaims(Claims):
    """Thresholds of the claims.

    Attributes:
        trained_accuracy: Train accuracy from which a network counts as trained.
        broken_error: Mean |f − f̃| on test points from which telescoping counts as broken; the
            default is a tenth of the distance between the two labels.
    """

    trained_accuracy: Proportion = 0.85
    broken_error: PositiveFloat = 0.1


class DepthCase(Case):
    """A case of kind ``depth``; its members differ by architecture, depth and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "test/mse",
        "test/linearization_error",
        "test/approximation_error@order1",
        "test/approximation_error@order2",
    )

    swept: ClassVar[Mapping[str, str]] = {
        "architecture": "model.architectures",
        "depth": "model.depths",
    }

    kind: Literal["depth"]
    data: DigitsSplit
    model: DepthSweep
    training: DepthTraining
    lens: BothOrders
    claims: DepthClaims

    @model_validator(mode="after")
    def _batch_fits(self) -> Self:
        batch_fits(self.training.batch_size, self.data.train_size)
        return self
