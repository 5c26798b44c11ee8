"""Parameters of gradient boosting against networks on tables (Section 4.2, Figs. 5 and 14)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from telescope_pipeline.schemas.sections import (
    Case,
    Claims,
    HiddenLayers,
    NonNegativeFloat,
    Optimizer,
    PositiveFloat,
    PositiveInt,
    ProbedLens,
    Proportion,
    Scalar,
    Section,
    refuse,
    unique,
)

TableName = Literal["houses", "superconduct", "california", "house_sales", "diamonds"]


def _increasing(values: list[float]) -> list[float]:
    if any(left >= right for left, right in itertools.pairwise(values)):
        raise PydanticCustomError("increasing", "expected increasing numbers")
    return values


def _whole_percent(values: list[float]) -> list[float]:
    if any(abs(100 * value - round(100 * value)) > 1e-9 for value in values):
        raise PydanticCustomError("percent", "expected multiples of 0.01")
    return values


_Range = Annotated[
    list[PositiveFloat], Field(min_length=2, max_length=2), AfterValidator(_increasing)
]
_Depth = Annotated[int, Field(ge=1, le=64)] | None


class TabularData(Section):
    """Tables, and how their rows are split.

    Attributes:
        tables: Names in the tabular benchmark (Grinsztajn et al. 2022).
        train_size: Regular rows to train on.
        validation_size: Regular rows that decide the random search.
        test_size: Rows of each test set.
        proportions: Parts of irregular rows in the test sets; 0 is the reference.
        irregular: The part of the table that counts as irregular.
        skewness: A feature of larger absolute skewness is log-transformed.
    """

    tables: Annotated[list[TableName], Field(min_length=1), AfterValidator(unique)]
    train_size: Annotated[int, Field(ge=10)]
    validation_size: PositiveInt
    test_size: PositiveInt
    proportions: Annotated[
        list[Proportion],
        Field(min_length=2),
        AfterValidator(_increasing),
        AfterValidator(_whole_percent),
    ] = Field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    irregular: Annotated[float, Field(gt=0, lt=1)] = 0.1
    skewness: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _regular_rows_are_the_reference(self) -> Self:
        if self.proportions[0] != 0:
            raise refuse("proportions", "0 as the first, which the others are compared with")
        return self


class NetworkSearch(Section):
    """How a network is trained, and the rates that are tried.

    Attributes:
        epochs: Passes over the data.
        batch_size: Rows in a batch.
        optimizer: Optimizer without its rate.
        learning_rates: Ends of a log-uniform distribution.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    optimizer: Optimizer
    learning_rates: _Range = Field(default_factory=lambda: [1e-5, 1e-2])


class TreesSearch(Section):
    """The boosted trees that are tried.

    Attributes:
        median_learning_rate: The rate is log-normal around this median.
        learning_rate_spread: One standard deviation of its logarithm is a factor of this.
        estimators: Ends of a log-uniform distribution of the number of rounds, then rounded.
        depths: A draw takes any entry with the same probability; null does not limit the depth.
    """

    median_learning_rate: PositiveFloat = 0.01
    learning_rate_spread: Annotated[float, Field(gt=1)] = 10.0
    estimators: _Range = Field(default_factory=lambda: [10.5, 1000.5])
    depths: Annotated[list[_Depth], Field(min_length=1)] = Field(
        default_factory=lambda: [None, 2, 3, 3, 3, 3, 3, 3, 4, 5]
    )

    @model_validator(mode="after")
    def _at_least_one_round(self) -> Self:
        if self.estimators[0] < 0.5:
            raise refuse("estimators", "at least 0.5, so that rounding leaves a round")
        return self


class SearchedTraining(Section):
    """A random search for each model.

    Attributes:
        draws: Settings tried for each model, table and seed.
        network: The network's; null to leave networks out, and what compares them with trees.
        trees: The trees'; null likewise.
    """

    draws: PositiveInt
    network: NetworkSearch | None = None
    trees: TreesSearch | None = None

    @model_validator(mode="after")
    def _something_is_trained(self) -> Self:
        if not self.searches:
            raise refuse("network", "a search for the network, for the trees or for both")
        return self

    @property
    def searches(self) -> dict[str, NetworkSearch | TreesSearch]:
        """The searches there are, by the name of their model."""
        found = {"network": self.network, "trees": self.trees}
        return {name: search for name, search in found.items() if search is not None}


class ComparisonLens(ProbedLens):
    """How the best network is telescoped, and how often both models are recorded.

    Attributes:
        norm_stride: Steps between two samples of the kernel norms, which cost much more.
    """

    norm_stride: PositiveInt = 40
    records: PositiveInt = 24


class ComparisonClaims(Claims):
    """Thresholds of the claims.

    Attributes:
        trees_norm_ratio: The trees' kernel-norm ratios may differ this much from 1.
    """

    trees_norm_ratio: PositiveFloat = 0.25


class BoostingVsNetworksCase(Case):
    """A case of kind ``boosting_vs_networks``; its members differ by table, model and seed."""

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/mse",
        "validation/mse",
        "test_p000/mse",
        "train/kernel_norm_max",
        "test_p000/kernel_norm_max",
        "train/effective_parameters",
        "regular/effective_parameters",
        "irregular/effective_parameters",
        "search/learning_rate",
        "search/max_depth",
    )
    # A network has no depth of trees, and that of trees may be unlimited.
    nullable_columns: ClassVar[tuple[str, ...]] = ("search/max_depth",)

    kind: Literal["boosting_vs_networks"]
    data: TabularData
    model: HiddenLayers
    training: SearchedTraining
    lens: ComparisonLens
    claims: ComparisonClaims

    @model_validator(mode="after")
    def _lens_fits(self) -> Self:
        rows, network = self.data.train_size, self.training.network
        if network is not None:
            steps = network.epochs * math.ceil(rows / network.batch_size)
            self.lens.check_fit(rows=rows, steps=steps, steps_from="the updates of a network")
        return self

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Restrict the sweep to ``values["table"]`` and ``values["model"]``.

        Returns:
            The case of the one member, see :meth:`Case.narrowed`.
        """
        others = {name: None for name in self.training.searches if name != values["model"]}
        return self.with_leaves(seed, data={"tables": [values["table"]]}, training=others)
