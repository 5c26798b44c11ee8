"""Parameters of the tiny case."""

from __future__ import annotations

from typing import Literal

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    PlotSection,
    PositiveFloat,
    PositiveInt,
    Proportion,
    Section,
)


class TinyData(Section):
    """A line with noise."""

    label_noise: Proportion


class TinyModel(Section):
    """A sweep over a number that training hardly looks at."""

    widths: list[PositiveInt]


class TinyTraining(Section):
    """Gradient descent."""

    epochs: PositiveInt
    learning_rate: PositiveFloat


class TinyLens(Section):
    """A leaf for tests to change."""

    stride: PositiveInt


class TinyCase(Case):
    """A case of kind ``tiny``."""

    kind: Literal["tiny"]
    data: TinyData
    model: TinyModel
    training: TinyTraining
    lens: TinyLens
    claims: Claims
    plot: PlotSection

    def narrowed(self, values: dict[str, int], seed: int) -> TinyCase:
        """Restrict the case to one width."""
        model = TinyModel(widths=[values["width"]])
        return self.model_copy(update={"model": model, "seeds": seed + 1})
