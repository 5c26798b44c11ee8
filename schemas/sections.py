"""The sections that several kinds of case share, and the base class of every case."""

from __future__ import annotations

import re
from collections.abc import Mapping
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


class PlotSection(Section):
    """How the figures of a case look; changing it reruns plot and publish only."""

    dpi: Annotated[int, Field(ge=50, le=600)] = 160


class Case(Section):
    """What every case has, whatever its kind.

    Attributes:
        kind: Names the model of the case and the package under ``cases/`` that runs it.
        seeds: Members per sweep value.
        required_columns: Columns every history of this kind has, besides ``step``.
        nullable_columns: Columns that may hold NaN, since the quantity is not always defined.
    """

    required_columns: ClassVar[tuple[str, ...]] = ("train/mse", "test/mse")
    nullable_columns: ClassVar[tuple[str, ...]] = ()

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
        if values:
            message = f"{type(self).__name__} does not say how to narrow {sorted(values)}"
            raise NotImplementedError(message)
        return self.model_copy(update={"seeds": seed + 1})
