"""Parameters of the comparison of telescoping and lazy approximations (Section 3, Fig. 2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    SGD,
    Case,
    HiddenLayers,
    MinibatchTraining,
    Optimizer,
    Order,
    Output,
    PositiveFloat,
    PositiveInt,
    Scalar,
    Section,
    batch_fits,
    matching,
    refuse,
    unique,
)
from telescope_pipeline.schemas.sources import BinarySource, source_or

_NAME = "letters, digits, dots and single dashes"


class TrainingSetting(Section):
    """One optimizer and output, and the learning rates they are tried with.

    Attributes:
        optimizer: The optimizer with its options.
        output: ``sigmoid`` for a sigmoid after the last layer (Eq. 13).
        name: What tables and figures call the setting; by default the optimizer with its momentum,
            coupled weight decay and output.
        learning_rates: One group of members each.
    """

    optimizer: Optimizer
    output: Output = "linear"
    name: Annotated[str, matching("[A-Za-z0-9.]+(-[A-Za-z0-9.]+)*", _NAME)] | None = None
    learning_rates: Annotated[list[PositiveFloat], Field(min_length=1), AfterValidator(unique)]

    @property
    def label(self) -> str:
        """The setting's name, e.g. ``sgd-momentum0.9``."""
        if self.name is not None:
            return self.name
        parts: list[str] = [self.optimizer.name]
        if isinstance(self.optimizer, SGD) and self.optimizer.momentum:
            parts.append(f"momentum{self.optimizer.momentum:g}")
        if self.optimizer.weight_decay and self.optimizer.name != "adamw":
            parts.append(f"decay{self.optimizer.weight_decay:g}")
        return "-".join([*parts, self.output] if self.output != "linear" else parts)


class SettingsTraining(MinibatchTraining):
    """Minibatch training, once for each setting and learning rate."""

    settings: Annotated[list[TrainingSetting], Field(min_length=1)]


class LensVariant(Section):
    """One way to telescope the same run."""

    order: Order
    stride: PositiveInt


class ComparedLenses(Section):
    """The lenses that watch a run side by side."""

    lenses: Annotated[list[LensVariant], Field(min_length=1), AfterValidator(unique)]
    records: PositiveInt = 25
    checkpoint_every: PositiveInt = 500

    @property
    def stride(self) -> int:
        """The longest stride, at whose end a record costs least."""
        return max(variant.stride for variant in self.lenses)


class ApproximationClaims(Section):
    """Thresholds of the claims.

    Attributes:
        closer_than_lazy: Factor by which f̃ must be closer to f than the lazy linearisation is.
        accuracy_gap: Difference in accuracy up to which two predictors count as equally good.
    """

    closer_than_lazy: PositiveFloat = 10.0
    accuracy_gap: PositiveFloat = 0.01


class ApproximationQualityCase(Case):
    """A case of kind ``approximation_quality``; members differ by setting, rate and seed."""

    kind: Literal["approximation_quality"]
    data: Annotated[BinarySource, source_or("digits")]
    model: HiddenLayers
    training: SettingsTraining
    lens: ComparedLenses
    claims: ApproximationClaims

    @model_validator(mode="after")
    def _batches_and_settings(self) -> Self:
        batch_fits(self.training.batch_size, self.data.train_size)
        names = [setting.label for setting in self.training.settings]
        if len(set(names)) < len(names):
            raise refuse(
                "training.settings", "settings that differ, by a name of their own if need be"
            )
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict to ``values["setting"]`` and ``values["learning_rate"]``.

        Returns:
            The case of the one member, see :meth:`Case.narrowed`.
        """
        kept = [
            setting.model_copy(update={"learning_rates": [values["learning_rate"]]})
            for setting in self.training.settings
            if setting.label == values["setting"]
        ]
        return self.with_leaves(seed, training={"settings": kept})
