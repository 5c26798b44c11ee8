"""Parameters of a small transformer that groks modular addition (after Power et al. 2022)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    DeflatedLens,
    GeneralisationClaims,
    NonNegativeInt,
    OptimizerWithRate,
    PositiveFloat,
    PositiveInt,
    Probes,
    Proportion,
    Section,
    refuse,
)


class ModularData(Section):
    """All sums ``a + b (mod p)``, some of them for training and the rest for testing.

    Attributes:
        modulus: p, the number of classes; there are p^2 sums.
        train_fraction: Proportion of the sums that are for training. The smaller it is, the longer
            generalisation takes; below some proportion it does not come at all.
    """

    modulus: Annotated[int, Field(ge=2)]
    train_fraction: Annotated[float, Field(gt=0, lt=1)]

    @property
    def train_size(self) -> int:
        """Sums in the training set, n."""
        return round(self.train_fraction * self.modulus**2)

    @property
    def test_size(self) -> int:
        """Sums in the test set."""
        return self.modulus**2 - self.train_size

    @model_validator(mode="after")
    def _both_sets_have_rows(self) -> Self:
        if not 0 < self.train_size < self.modulus**2:
            expected = f"a fraction that leaves sums of the {self.modulus**2} for both sets"
            raise refuse("train_fraction", expected)
        return self


class TransformerModel(Section):
    """A pre-LN transformer that reads ``a b =`` and answers at the last position.

    Attributes:
        width: Dimension of the residual stream.
        heads: Attention heads; they divide the width.
        blocks: Blocks of attention and feed-forward layer.
        hidden: Width of the feed-forward layers.
        causal: Whether positions see earlier positions only.
    """

    width: PositiveInt
    heads: PositiveInt
    blocks: Literal[1, 2] = 1
    hidden: PositiveInt
    causal: bool = False

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise refuse("heads", f"a divisor of model.width ({self.width})")
        return self


class ModularTraining(Section):
    """Training by cross-entropy, with a learning rate that rises linearly over the first steps.

    Attributes:
        steps: Number of updates.
        batch_size: Rows of a batch; the training set's size, or null, for full-batch training.
        warm_up: Update at which the learning rate reaches its value, from then on constant.
        optimizer: Strong decoupled weight decay is what makes networks of this kind generalise.
    """

    steps: PositiveInt
    batch_size: PositiveInt | None = None
    warm_up: NonNegativeInt = 10
    optimizer: OptimizerWithRate


class ModularLens(DeflatedLens):
    """How the run is telescoped and how often it is recorded."""

    probes: Probes = 16
    deflate: NonNegativeInt = 0
    records: PositiveInt = 60
    checkpoint_every: PositiveInt = 500


class ModularClaims(GeneralisationClaims):
    """Thresholds of the claims.

    Attributes:
        rise: By how much test accuracy must exceed its value at memorisation to count as rising.
        closer_than_lazy: Factor by which the telescoped predictions must be closer to the network
            than the lazy linearisation is.
        accuracy_gap: Difference in test accuracy up to which the telescoped predictions agree with
            the network.
    """

    memorised_accuracy: Proportion = 0.95
    rise: Proportion = 0.1
    closer_than_lazy: PositiveFloat = 10.0
    accuracy_gap: Proportion = 0.05


class ModularAdditionCase(Case):
    """A case of kind ``modular_addition``; its members differ by seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/cross_entropy",
        "test/cross_entropy",
        "train/accuracy",
        "test/accuracy",
        "test/telescoped_accuracy",
        "test/linearized_accuracy",
        "train/degrees_of_freedom",
        "train/logit_sensitivity",
        "test/logit_sensitivity",
        "test/approximation_error",
        "test/linearization_error",
    )

    kind: Literal["modular_addition"]
    data: ModularData
    model: TransformerModel
    training: ModularTraining
    lens: ModularLens
    claims: ModularClaims

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        rows = self.data.train_size
        batch = self.training.batch_size
        if batch is not None and batch > rows:
            raise refuse("training.batch_size", f"at most the {rows} training sums, or null")
        probes, labels = self.lens.probes, rows * self.data.modulus
        if isinstance(probes, int) and probes > labels:
            raise refuse("lens.probes", f"at most the {labels} one-hot labels")
        self.lens.check_fit(steps=self.training.steps)
        return self
