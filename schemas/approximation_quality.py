"""Parameters of the comparison of telescoping and lazy approximations (Section 3, Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    HiddenLayers,
    Optimizer,
    Order,
    PlotSection,
    PositiveFloat,
    PositiveInt,
    Scalar,
    Section,
    batch_fits,
    refuse,
    unique,
)
from telescope_pipeline.schemas.sources import BinarySource, source_or


class OptimizerSetting(Section):
    """One optimizer and the learning rates it is tried with."""

    optimizer: Optimizer
    learning_rates: Annotated[list[PositiveFloat], Field(min_length=1), AfterValidator(unique)]


class SettingsTraining(Section):
    """Minibatch training, once for each setting and learning rate."""

    steps: PositiveInt
    batch_size: PositiveInt
    settings: Annotated[list[OptimizerSetting], Field(min_length=1)]


class LensVariant(Section):
    """One way to telescope the same run."""

    order: Order
    stride: PositiveInt


class ComparedLenses(Section):
    """The lenses that watch a run side by side."""

    lenses: Annotated[list[LensVariant], Field(min_length=1), AfterValidator(unique)]
    records: PositiveInt = 25
    checkpoint_every: PositiveInt = 500


class ApproximationClaims(Section):
    """Thresholds of the claims.

    Attributes:
        closer_than_lazy: Factor by which f̃ must be closer to f than the lazy linearisation is.
        accuracy_gap: Difference in accuracy up to which two predictors count as equally good.
    """

    closer_than_lazy: PositiveFloat = 10.0
    accuracy_gap: PositiveFloat = 0.01


class ApproximationQualityCase(Case):
    """A case of kind ``approximation_quality``; members differ by optimizer, rate and seed."""

    required_columns: ClassVar[tuple[str, ...]] = ("train/mse", "test/mse")

    kind: Literal["approximation_quality"]
    data: Annotated[BinarySource, source_or("digits")]
    model: HiddenLayers
    training: SettingsTraining
    lens: ComparedLenses
    claims: ApproximationClaims
    plot: PlotSection

    @model_validator(mode="after")
    def _batches_and_settings(self) -> Self:
        batch_fits(self.training.batch_size, self.data.train_size)
        names = [setting.optimizer.name for setting in self.training.settings]
        if len(set(names)) < len(names):
            raise refuse("training.settings", "each optimizer at most once")
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict to ``values["optimizer"]`` and ``values["learning_rate"]``.

        See :meth:`Case.narrowed`.
        """
        kept: list[Any] = [
            setting.model_copy(update={"learning_rates": [values["learning_rate"]]})
            for setting in self.training.settings
            if setting.optimizer.name == values["optimizer"]
        ]
        training = self.training.model_copy(update={"settings": kept})
        return self.model_copy(update={"training": training, "seeds": seed + 1})
