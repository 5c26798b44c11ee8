"""Parameters of weight averaging after spawning (Section 4.3, Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    Decay,
    DigitsSplit,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Proportion,
    Section,
    refuse,
    unique,
)

Start = Literal["scratch", "pretrained"]
Statistics = Literal["interpolated", "recomputed"]


class DigitImages(DigitsSplit):
    """Disjoint parts of the 8×8 digits; those to pre-train on are turned by 90 degrees."""

    source: Literal["digits"]
    pretrain_size: PositiveInt


class CIFAR10Images(Section):
    """CIFAR-10 in colour at full size, and SVHN to pre-train on, in their official splits.

    Attributes:
        train_size: Training images, drawn from the split; all if null.
        test_size: Test images, drawn from the split; all if null.
        pretrain_source: ``svhn``, or null for no images to pre-train on.
        pretrain_size: Images to pre-train on; all if null.
    """

    source: Literal["cifar10"]
    train_size: PositiveInt | None = None
    test_size: PositiveInt | None = None
    pretrain_source: Literal["svhn"] | None = "svhn"
    pretrain_size: PositiveInt | None = None


ImageData = Annotated[DigitImages | CIFAR10Images, Field(discriminator="source")]


class ResidualModel(Section):
    """A residual network with BatchNorm; 16, 32, 64 with three blocks each is ResNet-20."""

    widths: Annotated[list[PositiveInt], Field(min_length=1)]
    blocks: PositiveInt

    @model_validator(mode="after")
    def _widths_do_not_decrease(self) -> Self:
        if self.widths != sorted(self.widths):
            raise refuse("widths", "widths that do not decrease")
        return self


class Phase(Section):
    """Training with a learning rate that is multiplied by ``factor`` at every milestone."""

    steps: PositiveInt
    learning_rate: PositiveFloat
    milestones: Annotated[list[PositiveInt], AfterValidator(unique)] = Field(default_factory=list)
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1

    def rate_at(self, step: int) -> float:
        """Learning rate of update number ``step`` (from 0)."""
        passed = sum(step >= milestone for milestone in self.milestones)
        return self.learning_rate * self.factor**passed


class AveragingTraining(Section):
    """SGD with momentum, from scratch or from a pre-trained network.

    Attributes:
        starts: Which of the two to run.
        scratch: Training of a freshly initialised network.
        pretraining: Training on the other data.
        finetuning: Training of the pre-trained network, whose last layer is drawn anew.
        crop: Pixels of zero padding out of which images are cropped at random; 0 for none.
        flip: Mirror half of the images.
    """

    starts: Annotated[list[Start], Field(min_length=1), AfterValidator(unique)]
    batch_size: PositiveInt
    momentum: Decay = 0.9
    weight_decay: NonNegativeFloat = 0.0
    crop: NonNegativeInt = 0
    flip: bool = False
    scratch: Phase
    pretraining: Phase
    finetuning: Phase

    def phase(self, start: str) -> Phase:
        """The phase in which children are spawned."""
        return self.finetuning if start == "pretrained" else self.scratch


class SpawnLens(Section):
    """When children are spawned, and what is measured.

    Attributes:
        spawn_steps: Checkpoints t′ at which two children are spawned; a phase leaves out those less
            than ``gradient_gap`` before its end, or past it.
        pairs: Pairs of children at each, with batch orders of their own.
        alphas: Positions on the line between two children, evenly spaced, the ends included.
        gradient_gap: Steps from t′ to the checkpoint whose gradients are compared.
        gradient_rows: Test points on which they are.
        checkpoint_every: Updates, of parents and children alike, between two saved states.
    """

    spawn_steps: Annotated[list[NonNegativeInt], Field(min_length=2), AfterValidator(unique)]
    pairs: PositiveInt = 1
    alphas: Annotated[int, Field(ge=2)] = 11
    gradient_gap: PositiveInt
    gradient_rows: PositiveInt = 64
    checkpoint_every: PositiveInt = 500


class AveragingClaims(Claims):
    """Thresholds of the claims.

    Attributes:
        statistics: Which running statistics the averaged networks are judged with.
        rank_correlation: A curve falls with t′ if its rank correlation with t′ is this negative.
    """

    statistics: Statistics = "recomputed"
    rank_correlation: Proportion = 0.5


class WeightAveragingCase(Case):
    """A case of kind ``weight_averaging``; its members differ by start and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "test/accuracy_gap@interpolated",
        "test/accuracy_gap@recomputed",
        "test/gradient_change@head",
    )

    swept: ClassVar[Mapping[str, str]] = {"setting": "training.starts"}

    kind: Literal["weight_averaging"]
    data: ImageData
    model: ResidualModel
    training: AveragingTraining
    lens: SpawnLens
    claims: AveragingClaims

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        data = self.data
        sizes = [size for size in (data.train_size, data.pretrain_size) if size is not None]
        if sizes and self.training.batch_size > min(sizes):
            expected = f"at most data.train_size and data.pretrain_size ({min(sizes)})"
            raise refuse("training.batch_size", expected)
        if data.test_size is not None and self.lens.gradient_rows > data.test_size:
            expected = f"at most data.test_size ({data.test_size})"
            raise refuse("lens.gradient_rows", expected)
        without = isinstance(data, CIFAR10Images) and data.pretrain_source is None
        if without and "pretrained" in self.training.starts:
            raise refuse("training.starts", "only scratch, since data.pretrain_source is null")
        for start in self.training.starts:
            if len(self.spawned_at(start)) < 2:
                steps = self.training.phase(start).steps
                expected = f"at least two that lie lens.gradient_gap before the end, step {steps}"
                raise refuse("lens.spawn_steps", expected)
        return self

    def spawned_at(self, start: str) -> list[int]:
        """The checkpoints t′ of a start, increasing."""
        last = self.training.phase(start).steps - self.lens.gradient_gap
        return sorted(step for step in self.lens.spawn_steps if step <= last)
