"""Parameters of double descent over the width of a network (Section 4.1, Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    EarlyStoppingSettings,
    OptimizerWithRate,
    PlotSection,
    PositiveFloat,
    PositiveInt,
    ProbedLens,
    Scalar,
    Section,
    batch_fits,
    refuse,
    unique,
)
from telescope_pipeline.schemas.sources import BinarySource, source_or


class WidthSweep(Section):
    """One hidden ReLU layer of each width."""

    widths: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(unique)]


class EpochTraining(Section):
    """Minibatch training for a number of passes over the data."""

    epochs: PositiveInt
    batch_size: PositiveInt
    optimizer: OptimizerWithRate
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

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "test/mse",
        "train/effective_parameters",
        "test/effective_parameters",
    )

    kind: Literal["double_descent"]
    data: Annotated[BinarySource, source_or("mnist1d")]
    model: WidthSweep
    training: EpochTraining
    lens: ProbedLens
    claims: DoubleDescentClaims
    plot: PlotSection

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        rows = self.data.train_size
        batch_fits(self.training.batch_size, rows)
        if rows is not None and isinstance(self.lens.probes, int) and self.lens.probes > rows:
            raise refuse("lens.probes", f"at most data.train_size ({rows})")
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the sweep to ``values["width"]``; see :meth:`Case.narrowed`."""
        model = self.model.model_copy(update={"widths": [values["width"]]})
        return self.model_copy(update={"model": model, "seeds": seed + 1})
