"""Parameters of double descent over the width of a network (Section 4.1, Fig. 3)."""

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

# MNIST-1D has 4000 training points in ten classes; two classes leave 794 at the fewest.
_CLASS = Annotated[int, Field(ge=0, le=9)]


class MNIST1DData(Section):
    """Two classes of MNIST-1D, with a share of the training labels flipped."""

    classes: Annotated[list[_CLASS], Field(min_length=2, max_length=2), AfterValidator(unique)]
    label_noise: Proportion


class WidthSweep(Section):
    """One hidden ReLU layer of each width."""

    widths: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(unique)]


class EpochTraining(Section):
    """Minibatch training for a number of passes over the data."""

    epochs: PositiveInt
    batch_size: PositiveInt
    optimizer: OptimizerWithRate


class ProbedLens(Section):
    """How the run is telescoped and how often it is recorded."""

    order: Order = 2
    stride: PositiveInt = 10
    probes: Probes = 48
    deflate: NonNegativeInt = 12
    records: PositiveInt = 12
    checkpoint_every: PositiveInt = 1000


class DoubleDescentClaims(Section):
    """Thresholds of the claims.

    Attributes:
        interpolation_mse: Final train error that counts as none; the width at which it is reached
            is the interpolation threshold.
        peak_factor: The test error's peak may lie this factor in width from the threshold.
        standard_errors: A difference counts as one if it exceeds this many.
    """

    interpolation_mse: PositiveFloat = 0.01
    peak_factor: PositiveFloat = 3.0
    standard_errors: NonNegativeFloat = 2.0


class DoubleDescentCase(Case):
    """A case of kind ``double_descent``; its members differ by width and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "test/mse",
        "train/effective_parameters",
        "test/effective_parameters",
    )

    kind: Literal["double_descent"]
    data: MNIST1DData
    model: WidthSweep
    training: EpochTraining
    lens: ProbedLens
    claims: DoubleDescentClaims
    plot: PlotSection

    @model_validator(mode="after")
    def _deflation_fits(self) -> Self:
        if isinstance(self.lens.probes, int) and self.lens.deflate > self.lens.probes:
            raise refuse("lens.deflate", f"at most lens.probes ({self.lens.probes})")
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the sweep to ``values["width"]``; see :meth:`Case.narrowed`."""
        model = self.model.model_copy(update={"widths": [values["width"]]})
        return self.model_copy(update={"model": model, "seeds": seed + 1})
