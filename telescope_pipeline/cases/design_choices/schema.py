"""Parameters of the comparison of design choices of training (Section 5, Eqs. 11 to 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    DigitsSplit,
    HiddenLayers,
    LensSection,
    MinibatchTraining,
    NonNegativeInt,
    OptimizerWithRate,
    Output,
    PositiveFloat,
    PositiveInt,
    Probes,
    Proportion,
    Scalar,
    Section,
    batch_fits,
    refuse,
    unique,
)

ChoiceName = Literal["plain", "momentum", "weight_decay", "adaptive", "sigmoid"]


class DigitsSplits(DigitsSplit):
    """A disjoint split of the 8×8 digits for every seed, odd against even."""

    @model_validator(mode="after")
    def _has_fifths(self) -> Self:
        if self.test_size < 5:
            # Kernel norms are shown by fifths of the test points.
            raise refuse("test_size", "at least 5")
        return self


class Choice(Section):
    """One way to train: an optimizer, and what follows the last layer.

    Attributes:
        name: Which design choice it stands for; ``plain`` is what the others are compared with.
        optimizer: The optimizer with its options.
        output: ``sigmoid`` for a sigmoid after the last layer.
    """

    name: ChoiceName
    optimizer: OptimizerWithRate
    output: Output = "linear"

    @model_validator(mode="after")
    def _is_what_its_name_says(self) -> Self:
        optimizer = self.optimizer
        if (self.output == "sigmoid") != (self.name == "sigmoid"):
            raise refuse("output", "sigmoid in the choice 'sigmoid', linear in the others")
        if (optimizer.name == "sgd") != (self.name != "adaptive"):
            expected = "adam or adamw in the choice 'adaptive', sgd in the others"
            raise refuse("optimizer.name", expected)
        if optimizer.name == "adam" and optimizer.weight_decay:
            # Coupled decay passes through rates of its own for every parameter.
            raise refuse("optimizer.weight_decay", "0, or adamw for a decay with adaptive rates")
        if optimizer.name == "sgd":
            if (optimizer.momentum > 0) != (self.name == "momentum"):
                raise refuse("optimizer.momentum", "above 0 in the choice 'momentum', else 0")
            if (optimizer.weight_decay > 0) != (self.name == "weight_decay"):
                expected = "above 0 in the choice 'weight_decay', else 0"
                raise refuse("optimizer.weight_decay", expected)
        return self


class ChoicesTraining(MinibatchTraining):
    """Minibatch training, once for every choice, from the same weights and on the same batches."""

    steps: Annotated[int, Field(ge=2)]
    choices: Annotated[list[Choice], Field(min_length=1)]

    @model_validator(mode="after")
    def _choices_differ(self) -> Self:
        unique([choice.name for choice in self.choices])
        return self


class ChoicesLens(LensSection):
    """How the run is telescoped and how often it is recorded."""

    probes: Probes = "exact"
    deflate: NonNegativeInt = 16
    records: PositiveInt = 16
    checkpoint_every: PositiveInt = 200


class DesignChoicesClaims(Claims):
    """Thresholds of the claims.

    Attributes:
        closed_form_error: Largest difference of a closed form from what the lens followed, relative
            to the largest prediction, at which they count as equal.
        early_part: The first part of the steps that counts as early.
        rate_spread: Factor by which the 90th percentile of the parameters' rates must exceed the
            10th for rates to count as spread.
    """

    closed_form_error: PositiveFloat = 1e-6
    early_part: Proportion = 0.5
    rate_spread: PositiveFloat = 2.0


class DesignChoicesCase(Case):
    """A case of kind ``design_choices``; its members differ by choice and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "test/mse",
        "train/effective_parameters",
        "test/effective_parameters",
        "closed_form/smoother_error",
        "closed_form/prediction_error",
        "gradient/weight",
        "gradient/contribution_share",
        "rate/median",
        "update/cosine",
    )

    kind: Literal["design_choices"]
    data: DigitsSplits
    model: HiddenLayers
    training: ChoicesTraining
    lens: ChoicesLens
    claims: DesignChoicesClaims

    @model_validator(mode="after")
    def _sizes_and_baseline(self) -> Self:
        batch_fits(self.training.batch_size, self.data.train_size)
        self.lens.check_fit(rows=self.data.train_size)
        choices = self.training.choices
        if len(choices) > 1 and choices[0].name != "plain":
            raise refuse("training.choices", "the choice 'plain' first, to compare with")
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict to ``values["choice"]``; see :meth:`Case.narrowed`."""
        kept = [choice for choice in self.training.choices if choice.name == values["choice"]]
        return self.with_leaves(seed, training={"choices": kept})
