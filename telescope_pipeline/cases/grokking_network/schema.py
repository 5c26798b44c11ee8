"""Parameters of networks that grok from enlarged initial weights (Section 4.1, Figs. 4, 12, 13)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    GeneralisationClaims,
    HiddenLayers,
    MinibatchTraining,
    NonNegativeInt,
    OptimizerWithRate,
    Output,
    PositiveFloat,
    PositiveInt,
    ProbedLens,
    Probes,
    Scalar,
    Section,
    batch_fits,
    refuse,
    unique,
)
from telescope_pipeline.schemas.sources import ImageSource

# The scale of the comparison, whose weights are torch's default.
STANDARD_ALPHA = 1.0


class ScaledLayers(HiddenLayers):
    """A ReLU network whose initial parameters are all multiplied by each alpha."""

    alphas: Annotated[list[Annotated[float, Field(gt=STANDARD_ALPHA)]], AfterValidator(unique)]


class Comparison(Section):
    """The same training from weights as torch draws them, with each of these outputs."""

    steps: PositiveInt
    outputs: Annotated[list[Output], AfterValidator(unique)]


class WarmedUpTraining(MinibatchTraining):
    """Minibatch training whose learning rate rises linearly over the first steps.

    Attributes:
        steps: Updates of the members with enlarged weights.
        batch_size: Rows of a batch; the training set's size for full-batch training.
        warm_up: Update at which the learning rate reaches its value, from then on constant.
        optimizer: The paper takes AdamW, whose weight decay is decoupled from the gradient.
        comparison: Members without enlarged weights; no outputs for none.
    """

    warm_up: NonNegativeInt = 100
    optimizer: OptimizerWithRate
    comparison: Comparison


class GrokkingNetworkLens(ProbedLens):
    """How the run is telescoped and how often it is recorded."""

    stride: PositiveInt = 4
    probes: Probes = 32
    deflate: NonNegativeInt = 0
    records: PositiveInt = 60


class GrokkingNetworkClaims(GeneralisationClaims):
    """Thresholds of the claims.

    Attributes:
        minimum_fall: Factor by which test error must still fall after memorisation.
        early_steps: Steps within which the standard initialisation must have generalised.
        complexity_factor: Times more effective parameters that an enlarged initialisation spends.
        smoother_error: Largest mean |f - (S Y + c)| at which the smoother is trusted.
    """

    minimum_fall: PositiveFloat = 2.0
    early_steps: PositiveInt = 300
    complexity_factor: PositiveFloat = 2.0
    smoother_error: PositiveFloat = 0.1


class GrokkingNetworkCase(Case):
    """A case of kind ``grokking_network``; its members differ by alpha, output and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "test/mse",
        "train/accuracy",
        "test/accuracy",
        "train/effective_parameters",
        "test/effective_parameters",
        "test/smoother_error",
        "test/approximation_error",
        "test/linearization_error",
    )

    kind: Literal["grokking_network"]
    data: ImageSource
    model: ScaledLayers
    training: WarmedUpTraining
    lens: GrokkingNetworkLens
    claims: GrokkingNetworkClaims

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        rows = self.data.train_size
        batch_fits(self.training.batch_size, rows)
        self.lens.check_fit(rows=rows, steps=self.training.steps)
        comparison = self.training.comparison
        if comparison.outputs:
            leaf = "training.comparison.steps"
            self.lens.check_fit(steps=comparison.steps, steps_from=leaf)
        elif not self.model.alphas:
            raise refuse("model.alphas", "at least one, since training.comparison has no outputs")
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the sweep to ``values["alpha"]`` and ``values["output"]``.

        Returns:
            The case of the one member, see :meth:`Case.narrowed`.
        """
        compared = values["alpha"] == STANDARD_ALPHA
        outputs = [values["output"]] if compared else []
        comparison = self.training.comparison.model_copy(update={"outputs": outputs})
        alphas = [] if compared else [values["alpha"]]
        return self.with_leaves(seed, model={"alphas": alphas}, training={"comparison": comparison})
