"""Parameters of following training on streamed rows (beyond the paper)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    Decay,
    HiddenLayers,
    MinibatchTraining,
    NonNegativeFloat,
    OptimizerWithRate,
    Order,
    PositiveFloat,
    PositiveInt,
    Section,
    refuse,
    unique,
)


class StreamedRows(Section):
    """A table that a teacher network labels, made row by row from a counter.

    Attributes:
        rows: Sizes of the training set; one run each.
        features: Of a row, in float32.
        teacher: Hidden units of the teacher.
        noise: Standard deviation of what is added to its outputs.
        test_size: Rows beyond every training set, which the lens evaluates.
        compared_rows: Up to this size the training set is also kept in memory, and followed so.
    """

    rows: Annotated[list[PositiveInt], Field(min_length=1), AfterValidator(unique)]
    features: PositiveInt = 16
    teacher: PositiveInt = 32
    noise: NonNegativeFloat = 0.1
    test_size: PositiveInt
    compared_rows: Annotated[int, Field(ge=0)] = 10000


class StreamedModel(HiddenLayers):
    """Linear layers with batch statistics, ReLU and dropout.

    Attributes:
        dropout: Probability that a unit is left out.
        batch_norm: Whether there are batch statistics.
    """

    dropout: Decay = 0.1
    batch_norm: bool = True


class StreamedTraining(MinibatchTraining):
    """Updates on consecutive batches of the stream.

    Attributes:
        optimizer: The optimizer.
        precision: Of the forward pass; ``bfloat16`` by autocast.
    """

    optimizer: OptimizerWithRate
    precision: Literal["float32", "bfloat16"] = "float32"


class StreamedLens(Section):
    """How the runs are followed and recorded.

    Attributes:
        order: Of the telescoping model.
        stride: Steps between two evaluations of it.
        probes: Label directions.
        records: Records of each member.
        checkpoint_every: Steps between two checkpoints, up to the end of a block.
    """

    order: Order = 2
    stride: PositiveInt = 10
    probes: PositiveInt = 32
    records: PositiveInt = 8
    checkpoint_every: PositiveInt = 100


class LargeScaleClaims(Claims):
    """Bounds of the claims, and of the seconds that ``telescope cost`` holds against them.

    Attributes:
        growth: How many times more a step may cost at the largest size than at the smallest.
        predictions_over_plain: How many times more a step may cost with predictions only.
        over_count: How many times more than the flop count asks for it may cost with probes.
        memory_gb: Resident memory of a process.
        closer_than_lazy: Factor by which f̃ must be closer to f than the lazy linearisation is.
    """

    growth: PositiveFloat = 1.1
    predictions_over_plain: PositiveFloat = 1.3
    over_count: PositiveFloat = 2.0
    memory_gb: PositiveFloat = 24.0
    closer_than_lazy: PositiveFloat = 10.0


class LargeScaleCase(Case):
    """A case of kind ``large_scale``; its members differ by training rows and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "test/mse",
        "test/effective_parameters",
        "test/approximation_error",
        "test/linearization_error",
        "training/difference",
        "plain/gflop",
        "predictions/gflop",
        "probes/gflop",
        "probes/state_mb",
        "stored/effective_parameters",
    )
    # Counted from the first block on; compared up to a size.
    nullable_columns: ClassVar[tuple[str, ...]] = (
        "plain/gflop",
        "predictions/gflop",
        "probes/gflop",
        "stored/effective_parameters",
        "stored/effective_parameters_stderr",
    )

    swept: ClassVar[Mapping[str, str]] = {"rows": "data.rows"}

    kind: Literal["large_scale"]
    data: StreamedRows
    model: StreamedModel
    training: StreamedTraining
    lens: StreamedLens
    claims: LargeScaleClaims

    @model_validator(mode="after")
    def _sections_fit(self) -> Self:
        if self.training.batch_size > (rows := min(self.data.rows)):
            raise refuse("training.batch_size", f"at most the smallest of data.rows ({rows})")
        if self.training.steps % self.lens.stride or self.training.steps < 3 * self.lens.stride:
            raise refuse("training.steps", "a multiple of lens.stride, at least three of them")
        return self
