"""Parameters of double descent over the width of a network (Section 4.1, Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    COMPLEXITY_COLUMNS,
    Case,
    Claims,
    EarlyStoppingSettings,
    EpochTraining,
    PositiveFloat,
    PositiveInt,
    ProbedLens,
    Section,
    batch_fits,
    unique,
)
from telescope_pipeline.schemas.sources import BinarySource, source_or


class WidthSweep(Section):
    """One hidden ReLU layer of each width."""

    widths: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(unique)]


class StoppedTraining(EpochTraining):
    """Minibatch training that may end early."""

    early_stopping: EarlyStoppingSettings | None = None


class DoubleDescentClaims(Claims):
    """Thresholds of the claims.

    Attributes:
        interpolation_mse: Final train error that counts as none; the width at which it is reached
            is the interpolation threshold.
        peak_factor: The test error's peak may lie this factor in width from the threshold.
    """

    interpolation_mse: PositiveFloat = 0.01
    peak_factor: PositiveFloat = 3.0


class DoubleDescentCase(Case):
    """A case of kind ``double_descent``; its members differ by width and seed."""

    required_columns = COMPLEXITY_COLUMNS

    swept: ClassVar[Mapping[str, str]] = {"width": "model.widths"}

    kind: Literal["double_descent"]
    data: Annotated[BinarySource, source_or("mnist1d")]
    model: WidthSweep
    training: StoppedTraining
    lens: ProbedLens
    claims: DoubleDescentClaims

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        rows = self.data.train_size
        batch_fits(self.training.batch_size, rows)
        self.lens.check_fit(rows=rows)
        return self
