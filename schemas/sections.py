"""The sections that several kinds of case share, and the base class of every case."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Scalar = int | float | str

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Proportion = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Order = Literal[1, 2]
Output = Literal["linear", "sigmoid"]

# Rows of the digits data set that scikit-learn ships.
DIGITS_ROWS = 1797

COMPLEXITY_COLUMNS = (
    "train/mse",
    "test/mse",
    "train/effective_parameters",
    "test/effective_parameters",
)
"""Errors, and the effective parameters that they are held against."""


def refuse(field: str, expected: str) -> PydanticCustomError:
    """Build the error for a value that is fine by itself and wrong beside another one.

    Args:
        field: Dotted path of the leaf to change, relative to the model that raises.
        expected: What would be accepted, e.g. ``"at most lens.probes (48)"``.

    Returns:
        The error to raise inside a validator.
    """
    return PydanticCustomError(
        "combination", "expected {expected}", {"field": field, "expected": expected}
    )


def matching(pattern: str, expected: str) -> BeforeValidator:
    """Build a validator for text that matches a pattern as a whole.

    Args:
        pattern: A regular expression.
        expected: What the pattern stands for, in words.

    Returns:
        The validator, for use in ``Annotated[str, ...]``.
    """

    def check(value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(pattern, value):
            return value
        raise PydanticCustomError("pattern", "expected {expected}", {"expected": expected})

    return BeforeValidator(check)


def word_or_count(word: str) -> BeforeValidator:
    """Build a validator for a value that is either ``word`` or an integer of at least 1."""

    def check(value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if is_count or value == word:
            return value
        expected = f"'{word}' or an integer of at least 1"
        raise PydanticCustomError("word_or_count", "expected {expected}", {"expected": expected})

    return BeforeValidator(check)


Probes = Annotated[int | Literal["exact"], word_or_count("exact")]


def unique(values: list[Any]) -> list[Any]:
    """Pass on a list whose entries all differ, for use as a pydantic validator."""
    if len({repr(value) for value in values}) < len(values):
        raise PydanticCustomError("unique", "expected entries that differ from each other")
    return values


def listed(words: Sequence[str]) -> str:
    """Join words as in ``"a, b and c"``."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def batch_fits(batch_size: int, rows: int | None) -> None:
    """Refuse a ``training.batch_size`` beyond the ``rows`` of ``data.train_size``.

    Args:
        batch_size: Rows of a batch.
        rows: Size of the training set; None if no parameter tells it.

    Raises:
        PydanticCustomError: To be raised in a validator of the case.
    """  # noqa: DOC501  # made by refuse
    if rows is not None and batch_size > rows:
        raise refuse("training.batch_size", f"at most data.train_size ({rows})")


class Section(BaseModel):
    """A mapping in ``params.yaml``: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SGD(Section):
    """Stochastic gradient descent, as ``torch.optim.SGD`` names its options."""

    name: Literal["sgd"]
    momentum: Decay = 0.0
    dampening: Proportion = 0.0
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise refuse("nesterov", "false, since it needs a momentum and no dampening")
        return self


class _Adaptive(Section):
    betas: Annotated[list[Decay], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.9, 0.999]
    )
    eps: PositiveFloat = 1e-8


class Adam(_Adaptive):
    """Adam with coupled weight decay, as ``torch.optim.Adam`` names its options."""

    name: Literal["adam"]
    weight_decay: NonNegativeFloat = 0.0


class AdamW(_Adaptive):
    """Adam with decoupled weight decay, as ``torch.optim.AdamW`` names its options."""

    name: Literal["adamw"]
    weight_decay: NonNegativeFloat = 0.01


class _WithLearningRate(Section):
    learning_rate: PositiveFloat


class SGDWithRate(SGD, _WithLearningRate):
    """SGD together with its learning rate."""


class AdamWithRate(Adam, _WithLearningRate):
    """Adam together with its learning rate."""


class AdamWWithRate(AdamW, _WithLearningRate):
    """AdamW together with its learning rate."""


# For sweeps over learning rates, and for cases with a single one.
Optimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="name")]
OptimizerWithRate = Annotated[
    SGDWithRate | AdamWithRate | AdamWWithRate, Field(discriminator="name")
]


class DigitsSplit(Section):
    """Disjoint parts of the 8×8 digits that scikit-learn ships."""

    train_size: PositiveInt
    test_size: PositiveInt

    @model_validator(mode="after")
    def _split_fits(self) -> Self:
        parts = [name for name in type(self).model_fields if name.endswith("_size")]
        if sum(getattr(self, name) for name in parts) > DIGITS_ROWS:
            expected = f"at most {DIGITS_ROWS} rows in {listed(parts)} together"
            raise refuse(parts[-1], expected)
        return self


class HiddenLayers(Section):
    """A ReLU network with these hidden widths; two of them make the paper's three layers."""

    hidden: Annotated[list[PositiveInt], Field(min_length=1)]


class MinibatchTraining(Section):
    """A number of updates on minibatches."""

    steps: PositiveInt
    batch_size: PositiveInt


class EpochTraining(Section):
    """Minibatch training for a number of passes over the data."""

    epochs: PositiveInt
    batch_size: PositiveInt
    optimizer: OptimizerWithRate


class LensSection(Section):
    """How a run is telescoped with its smoother.

    Attributes:
        order: Of the telescoping model.
        stride: Steps between two evaluations of it.
        probes: Label directions, or ``exact`` for all of them.
    """

    order: Order = 2
    stride: PositiveInt = 10
    probes: Probes = 48

    def check_fit(
        self,
        *,
        rows: int | None = None,
        steps: int | None = None,
        steps_from: str = "training.steps",
    ) -> None:
        """Refuse a lens that does not fit the training it watches.

        Args:
            rows: Size of the training set, ``data.train_size``, if parameters tell it.
            steps: Number of updates of the shortest member, if the stride must not exceed it.
            steps_from: The leaf that decides it.

        Raises:
            PydanticCustomError: More probes than labels, or a stride longer than the run; to be
                raised in a validator of the case.
        """  # noqa: DOC501  # made by refuse
        if rows is not None and isinstance(self.probes, int) and self.probes > rows:
            raise refuse("lens.probes", f"at most data.train_size ({rows})")
        if steps is not None and self.stride > steps:
            raise refuse("lens.stride", f"at most {steps_from} ({steps})")


class SmootherLens(LensSection):
    """A lens, and how often what it sees is recorded.

    Attributes:
        records: Records of each member.
        checkpoint_every: Steps between two checkpoints.
    """

    records: PositiveInt = 12
    checkpoint_every: PositiveInt = 1000


class DeflatedLens(LensSection):
    """A lens whose probes may follow the kernel's leading directions.

    Attributes:
        deflate: How many of the probes are leading eigenvectors of the kernel.
    """

    deflate: NonNegativeInt = 12

    @model_validator(mode="after")
    def _deflation_fits(self) -> Self:
        if isinstance(self.probes, int) and self.deflate > self.probes:
            raise refuse("deflate", f"at most lens.probes ({self.probes})")
        return self


class ProbedLens(DeflatedLens, SmootherLens):
    """A lens with deflated probes, and how often what it sees is recorded."""


class Claims(Section):
    """Thresholds of claims that compare means over seeds.

    Attributes:
        standard_errors: A difference counts as one if it exceeds this many.
    """

    standard_errors: NonNegativeFloat = 2.0


class GeneralisationClaims(Claims):
    """Thresholds of claims about networks that generalise long after they memorised.

    Attributes:
        memorised_accuracy: Train accuracy that counts as having memorised the training set.
        generalised_accuracy: Test accuracy that counts as having generalised.
        confirmations: Records, the first one included, that an event must last.
        minimum_delay: How many times later test accuracy must get there than train accuracy.
        divergence_errors: Standard errors of p_train - p_test above which the two count as apart.
        divergence_gap: Effective parameters by which they must be apart at the least.
    """

    memorised_accuracy: Proportion = 0.99
    generalised_accuracy: Proportion = 0.9
    confirmations: PositiveInt = 2
    minimum_delay: PositiveFloat = 3.0
    divergence_errors: NonNegativeFloat = 3.0
    divergence_gap: NonNegativeFloat = 10.0


class EarlyStoppingSettings(Section):
    """When training ends before its last epoch; looked at after every epoch.

    Attributes:
        train_accuracy: Ends it when the train accuracy has reached this.
        patience: Ends it after this many epochs without an improvement of the train loss.
        minimum_improvement: By which the best loss so far must be undercut to count as one.
    """

    train_accuracy: Proportion = 1.0
    patience: PositiveInt = 500
    minimum_improvement: NonNegativeFloat = 1e-4


class PlotSection(Section):
    """How the figures of a case look; changing it reruns plot and the report only."""

    dpi: Annotated[int, Field(ge=50, le=600)] = 160


class Case(Section):
    """What every case has, whatever its kind.

    Attributes:
        kind: Names the model of the case and the package under ``cases/`` that runs it.
        seeds: Members per sweep value.
        required_columns: Columns every history of this kind has, besides ``step``.
        nullable_columns: Columns that may hold NaN, since the quantity is not always defined.
        swept: For each sweep value the list it is taken from, e.g. ``{"width": "model.widths"}``.
    """

    required_columns: ClassVar[tuple[str, ...]] = ("train/mse", "test/mse")
    nullable_columns: ClassVar[tuple[str, ...]] = ()
    swept: ClassVar[Mapping[str, str]] = {}

    kind: str
    seeds: PositiveInt
    plot: PlotSection

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the case to one member of its sweep.

        A member is trained with this restricted case, so nothing of the other members can reach
        it, and its finished result stays valid when the sweep grows.

        Args:
            values: The member's sweep values, e.g. ``{"width": 30}``.
            seed: The member's seed, from 0.

        Returns:
            The same case with a sweep of this one value and ``seeds = seed + 1``.

        Raises:
            NotImplementedError: If a kind with a sweep does not say how to restrict it.
        """
        if unknown := sorted(set(values) - set(self.swept)):
            message = f"{type(self).__name__} does not say how to narrow {unknown}"
            raise NotImplementedError(message)
        changed: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            section, leaf = self.swept[name].split(".")
            changed.setdefault(section, {})[leaf] = [value]
        return self.with_leaves(seed, **changed)

    def with_leaves(self, seed: int, **sections: Mapping[str, Any]) -> Self:
        """A copy up to this seed in which leaves of sections are replaced."""
        changed = {
            name: getattr(self, name).model_copy(update=leaves) for name, leaves in sections.items()
        }
        return self.model_copy(update={**changed, "seeds": seed + 1})

    def references(self, stage: str) -> dict[str, str]:
        """The functions of the user's own code that a stage calls.

        What is wrong with them tells ``problems(case, stage) -> list[str]`` of the kind's optional
        module ``checks``.

        Args:
            stage: A stage, e.g. ``"train"``.

        Returns:
            Their places by leaf, e.g. ``{"model.call": "my_model:build"}``; as a rule none.
        """
        return {}
