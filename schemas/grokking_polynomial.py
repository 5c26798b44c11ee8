"""Parameters of the polynomial regression on which training groks (Section 4.1, Fig. 4)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    NonNegativeFloat,
    PlotSection,
    PositiveFloat,
    PositiveInt,
    Probes,
    Section,
    SmootherLens,
)


class PolynomialData(Section):
    """Gaussian inputs and the square of a random projection as the target."""

    dimension: PositiveInt
    train_size: PositiveInt
    test_size: PositiveInt


class PolynomialModel(Section):
    """One hidden layer with ``φ(u) = u + (ε/2)u²`` and fixed output weights."""

    hidden: PositiveInt
    epsilon: NonNegativeFloat


class FullBatchTraining(Section):
    """Full-batch gradient descent."""

    steps: PositiveInt
    learning_rate: PositiveFloat


class GrokkingLens(SmootherLens):
    """How the run is telescoped and how often it is recorded."""

    stride: PositiveInt = 16
    probes: Probes = "exact"
    records: PositiveInt = 80
    checkpoint_every: PositiveInt = 2000


class GrokkingClaims(Claims):
    """Thresholds of the claims.

    Attributes:
        low_error: The same level of train and test error, to compare when each gets there.
        minimum_delay: How many times later test error must get there.
        low_train_error: Train error from which on the fall of test error is measured.
        minimum_fall: Factor by which test error must still fall from then on.
        early_lead: Part by which p_test must exceed p_train at some early step.
        smoother_error: Largest mean |f − (S·Y + c)| at which the smoother is trusted.
    """

    low_error: PositiveFloat = 0.1
    minimum_delay: PositiveFloat = 3.0
    low_train_error: PositiveFloat = 0.01
    minimum_fall: PositiveFloat = 2.0
    early_lead: PositiveFloat = 0.01
    smoother_error: PositiveFloat = 0.001


class GrokkingPolynomialCase(Case):
    """A case of kind ``grokking_polynomial``; its members differ by seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "test/mse",
        "train/effective_parameters",
        "test/effective_parameters",
    )

    kind: Literal["grokking_polynomial"]
    data: PolynomialData
    model: PolynomialModel
    training: FullBatchTraining
    lens: GrokkingLens
    claims: GrokkingClaims
    plot: PlotSection

    @model_validator(mode="after")
    def _lens_fits(self) -> Self:
        self.lens.check_fit(rows=self.data.train_size, steps=self.training.steps)
        return self
