"""Parameters of the polynomial regression on which training groks (Section 4.1, Fig. 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from telescope_pipeline.schemas.sections import (
    COMPLEXITY_COLUMNS,
    Case,
    Claims,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probes,
    Scalar,
    Section,
    SmootherLens,
    refuse,
    unique,
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


class EpsilonComparison(Section):
    """The same training with other epsilons, as long as it takes to see where p parts ways."""

    steps: PositiveInt
    epsilons: Annotated[list[NonNegativeFloat], AfterValidator(unique)]


class FullBatchTraining(Section):
    """Full-batch gradient descent.

    Attributes:
        steps: Updates with ``model.epsilon``.
        learning_rate: Of all members.
        comparison: Members with other epsilons; ``null`` for none.
    """

    steps: PositiveInt
    learning_rate: PositiveFloat
    comparison: EpsilonComparison | None = None


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
        divergence_gap: Effective parameters by which p_train must exceed p_test to count as apart.
        confirmations: Records, the first one included, that this must last to the end.
        smoother_error: Largest mean |f − (S·Y + c)| at which the smoother is trusted.
    """

    low_error: PositiveFloat = 0.1
    minimum_delay: PositiveFloat = 3.0
    low_train_error: PositiveFloat = 0.01
    minimum_fall: PositiveFloat = 2.0
    early_lead: PositiveFloat = 0.01
    divergence_gap: PositiveFloat = 10.0
    confirmations: PositiveInt = 2
    smoother_error: PositiveFloat = 0.001


class GrokkingPolynomialCase(Case):
    """A case of kind ``grokking_polynomial``; its members differ by epsilon and seed."""

    required_columns = COMPLEXITY_COLUMNS

    kind: Literal["grokking_polynomial"]
    data: PolynomialData
    model: PolynomialModel
    training: FullBatchTraining
    lens: GrokkingLens
    claims: GrokkingClaims

    @model_validator(mode="after")
    def _lens_fits(self) -> Self:
        self.lens.check_fit(rows=self.data.train_size, steps=self.training.steps)
        comparison = self.training.comparison
        if comparison is not None:
            if self.model.epsilon in comparison.epsilons:
                others = f"none equal to model.epsilon ({self.model.epsilon:g})"
                raise refuse("training.comparison.epsilons", others)
            leaf = "training.comparison.steps"
            self.lens.check_fit(steps=comparison.steps, steps_from=leaf)
        return self

    @property
    def epsilons(self) -> list[float]:
        """Epsilon of every group, ``model.epsilon`` first."""
        comparison = self.training.comparison
        return [self.model.epsilon, *(comparison.epsilons if comparison is not None else [])]

    def steps_with(self, epsilon: Scalar) -> int:
        """Updates of the members with this epsilon."""
        comparison = self.training.comparison
        if comparison is None or epsilon == self.model.epsilon:
            return self.training.steps
        return comparison.steps

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the sweep to ``values["epsilon"]``; see :meth:`Case.narrowed`."""
        epsilon = values["epsilon"]
        training = {"steps": self.steps_with(epsilon), "comparison": None}
        return self.with_leaves(seed, model={"epsilon": epsilon}, training=training)
