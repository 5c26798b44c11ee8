"""Parameters of the user's own model: the code is named in the file, the rest is plain settings."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from telescope_pipeline.schemas.secrets import masked
from telescope_pipeline.schemas.sections import (
    AdamWithRate,
    AdamWWithRate,
    Case,
    NonNegativeFloat,
    NonNegativeInt,
    Order,
    PositiveInt,
    Probes,
    Scalar,
    Section,
    SGDWithRate,
    matching,
    refuse,
    unique,
)

LOSSES = ("mse", "half_mse", "bce_with_logits", "cross_entropy")

# What training records by itself; a metric of the user's needs another name.
RECORDED = ("loss", "accuracy")

_NAME = r"[A-Za-z_]\w*"
_PATTERN = rf"{_NAME}(\.{_NAME})*:{_NAME}(\.{_NAME})*"
_EXAMPLE = "my_package.module:function"
# Not the loss: which columns a history has depends on it.
_SWEPT = ("model", "data", "optimizer", "training", "lens")
_UNNAMED = re.compile(r"[^A-Za-z0-9.+-]+")

Reference = Annotated[str, matching(_PATTERN, f"a function's place such as {_EXAMPLE}")]
Loss = Annotated[
    str,
    matching(
        f"{'|'.join(LOSSES)}|{_PATTERN}", f"{', '.join(LOSSES)} or a place such as {_EXAMPLE}"
    ),
]
SetName = Annotated[str, matching("[a-z][a-z0-9_]*", "a name of small letters, digits and '_'")]
_Module = Annotated[str, matching(_NAME, "the first name of a module, such as my_helpers")]
_Leaf = Annotated[str, matching(rf"{_NAME}(\.{_NAME})*", "a dotted leaf such as training.steps")]
_Column = Annotated[
    str,
    matching(
        r"[a-z][a-z0-9_]*/[a-z0-9][a-z0-9_@.,=-]*",
        "a recorded quantity such as test/approximation_error",
    ),
]


def _as_call(value: Any) -> Any:
    return {"call": value} if isinstance(value, str) else value


class Call(Section):
    """A function of the user's and the options it is called with.

    In the file a text stands for a call without options.

    Attributes:
        call: Its place, ``<module>:<name>``.
        options: Keyword arguments.
    """

    call: Reference
    options: dict[Annotated[str, matching(_NAME, "the name of an argument")], Any] = Field(
        default_factory=dict
    )


UserCall = Annotated[Call, BeforeValidator(_as_call)]


class OwnOptimizer(Call):
    """A function of the user's that makes the optimizer of a model."""

    name: Literal["own"]


def _as_optimizer(value: Any) -> Any:
    if isinstance(value, str) and not re.fullmatch(_PATTERN, value):
        expected = f"settings, or a function's place such as {_EXAMPLE}"
        raise PydanticCustomError("pattern", "expected {expected}", {"expected": expected})
    value = _as_call(value)
    if isinstance(value, dict) and "call" in value and "name" not in value:
        return {"name": "own", **value}
    return value


AnyOptimizer = Annotated[
    Annotated[
        SGDWithRate | AdamWithRate | AdamWWithRate | OwnOptimizer, Field(discriminator="name")
    ],
    BeforeValidator(_as_optimizer),
]


def _new_names(metrics: dict[str, Any]) -> dict[str, Any]:
    taken = sorted(set(metrics) & set(RECORDED))
    if taken:
        raise PydanticCustomError(
            "taken", "expected other names than {names}", {"names": " and ".join(RECORDED)}
        )
    return metrics


class OwnTraining(Section):
    """Minibatch training with a constant learning rate.

    Attributes:
        steps: Number of updates.
        batch_size: Rows of a batch; null for all of them.
        metrics: More quantities to record for every set that has targets, by name:
            ``function(outputs, targets) -> number``.
    """

    steps: PositiveInt
    batch_size: PositiveInt | None = None
    metrics: Annotated[dict[SetName, Reference], AfterValidator(_new_names)] = Field(
        default_factory=dict
    )


class OwnLens(Section):
    """How a run is telescoped and how often it is recorded.

    Attributes:
        order: Of the telescoping model.
        stride: Steps between two evaluations of it.
        probes: Label directions of the smoother, ``exact`` for all of them, or null for
            predictions only.
        deflate: How many of the probes may be leading eigenvectors of the kernel.
        response: What outputs stand for; ``auto`` for what the loss shows.
        sets: Sets to follow besides the training set; null for all there are.
        kernel_norms: Whether to measure norms of tangent-kernel rows.
        chunk_size: Rows of a set evaluated at once; null for all.
        records: Records of each member.
        checkpoint_every: Steps between two checkpoints.
    """

    order: Order = 2
    stride: PositiveInt = 10
    probes: Probes | None = 48
    deflate: NonNegativeInt = 12
    response: Literal["auto", "identity", "softmax", "sigmoid", "exp"] = "auto"
    sets: Annotated[list[SetName], AfterValidator(unique)] | None = None
    kernel_norms: bool = False
    chunk_size: PositiveInt | None = None
    records: PositiveInt = 24
    checkpoint_every: PositiveInt = 500


class DeclaredClaim(Section):
    """A check on a recorded quantity; it holds if it holds in every setting of the sweep.

    Attributes:
        metric: What is looked at.
        at: ``first``, ``last`` or ``every`` record, or the first record from a step on.
        below: A number, or another recorded quantity, that it must lie under.
        above: The same for lying over.
        standard_errors: By how many standard errors over seeds it must do so.
        id: A short name; made from the others if null.
        statement: The claim in a sentence; made from the others if null.
    """

    metric: _Column
    at: Literal["first", "last", "every"] | NonNegativeInt = "last"
    below: float | _Column | None = None
    above: float | _Column | None = None
    standard_errors: NonNegativeFloat = 0.0
    id: Annotated[str, matching("[a-z0-9][a-z0-9-]*", "small letters, digits and '-'")] | None = (
        None
    )
    statement: str | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if (self.below is None) == (self.above is None):
            raise refuse("below", "exactly one of below and above")
        return self

    @property
    def name(self) -> str:
        """The claim's id."""
        if self.id is not None:
            return self.id
        way, bound = ("below", self.below) if self.above is None else ("above", self.above)
        words = f"{self.metric}-{self.at}-{way}-{bound}".lower()
        return re.sub("[^a-z0-9]+", "-", words).strip("-")


def _claims_differ(claims: list[DeclaredClaim]) -> list[DeclaredClaim]:
    if len({claim.name for claim in claims}) < len(claims):
        raise PydanticCustomError("unique", "expected claims with ids that differ")
    return claims


def _one_type(values: list[Any]) -> list[Any]:
    """Give numbers of a list one type, since a column of a table has one."""
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return [float(value) for value in values]
    if len(kinds) > 1:
        raise PydanticCustomError("one_type", "expected values of one type: numbers or text")
    return values


_Values = Annotated[
    list[Scalar], Field(min_length=1), AfterValidator(_one_type), AfterValidator(unique)
]


class OwnModelCase(Case):
    """A case of kind ``own_model``; its members differ by the leaves of ``sweep`` and by seed.

    Attributes:
        model: ``function(seed, **options) -> torch.nn.Module``.
        data: ``function(seed, **options)``, which gives the tensors by name.
        loss: One of :data:`LOSSES`, or ``function(outputs, targets) -> scalar``.
        optimizer: Settings, or ``function(model, **options) -> torch.optim.Optimizer``.
        training: Steps and batches.
        lens: How the run is telescoped.
        sweep: Values of dotted leaves of the case; every combination is trained.
        claims: What to check.
        code: More modules in the folder of the parameters, which these functions import.
    """

    required_columns: ClassVar[tuple[str, ...]] = (
        "train/loss",
        "test/loss",
        "train/approximation_error",
        "train/linearization_error",
    )

    kind: Literal["own_model"]
    model: UserCall
    data: UserCall
    loss: Loss
    optimizer: AnyOptimizer
    training: OwnTraining
    lens: OwnLens
    sweep: dict[_Leaf, _Values] = Field(default_factory=dict)
    claims: Annotated[list[DeclaredClaim], AfterValidator(_claims_differ)] = Field(
        default_factory=list
    )
    code: list[_Module] = Field(default_factory=list)

    @model_validator(mode="after")
    def _stride_fits(self) -> Self:
        # With a sweep, every member is checked in its turn.
        if not self.sweep and self.lens.stride > self.training.steps:
            raise refuse("lens.stride", f"at most training.steps ({self.training.steps})")
        return self

    @model_validator(mode="after")
    def _members_are_valid(self) -> Self:
        plain = self.model_dump(exclude={"sweep"})
        for leaf, values in self.sweep.items():
            if leaf.split(".")[0] not in _SWEPT:
                raise _refuse_swept(f"leaves in {', '.join(_SWEPT)}, not {leaf}", leaf)
            if len({slug(value) for value in values}) < len(values):
                expected = f"values of {leaf} that also differ as parts of file names"
                raise _refuse_swept(expected, leaf)
        for chosen in self.combinations() if self.sweep else ():
            try:
                type(self).model_validate(_with(plain, chosen))
            except KeyError as missing:
                raise _no_leaf(missing.args[0], plain) from None
            except ValidationError as error:
                raise self._misfit(chosen, error) from None
        return self

    def _misfit(self, chosen: Mapping[str, Scalar], error: ValidationError) -> PydanticCustomError:
        """Name the value that keeps a combination from being a case, if one does by itself."""
        first = error.errors(include_url=False, include_input=False)[0]
        where = f"{first['ctx']['field']}: " if first["type"] == "combination" else ""
        given = ", ".join(
            f"{leaf}={masked({leaf: value})[leaf]!r}" for leaf, value in chosen.items()
        )
        expected = f"values that fit the case; with {given}: {where}{first['msg']}"
        # Pydantic puts names of branches of unions between the keys.
        leaves = [leaf for leaf in chosen if set(leaf.split(".")) <= set(first["loc"])]
        for leaf in leaves or (chosen if len(chosen) == 1 else ()):
            position = self.sweep[leaf].index(chosen[leaf])
            return _refuse_swept(expected, leaf, position)
        return _refuse_swept(expected)

    def combinations(self) -> Iterator[dict[str, Scalar]]:
        """Every combination of the swept values, as ``{leaf: value}``; one, empty, without any."""
        for values in itertools.product(*self.sweep.values()):
            yield dict(zip(self.sweep, values, strict=True))

    def narrowed(self, values: Mapping[str, Scalar], seed: int) -> Self:
        """Put in the swept values of one member; see :meth:`Case.narrowed`."""
        plain = self.with_values(values).model_dump()
        sweep = {leaf: [values[leaf]] for leaf in self.sweep}
        return type(self).model_validate({**plain, "sweep": sweep, "seeds": seed + 1})

    def with_values(self, values: Mapping[str, Scalar]) -> Self:
        """Put some values in their leaves and sweep nothing."""
        return type(self).model_validate(_with(self.model_dump(exclude={"sweep"}), values))

    def references(self, stage: str) -> dict[str, str]:
        """The functions of the user's that a stage calls, also those that only some members call.

        Returns:
            Their places by leaf, see :meth:`Case.references`.
        """
        found: dict[str, str] = {}
        for values in self.combinations():
            case = self.narrowed(values, 0) if values else self
            for leaf, reference, _, _ in case.calls(stage):
                found.setdefault(leaf, reference)
                if found[leaf] != reference:
                    found[f"sweep: {leaf} = {reference}"] = reference
        more = enumerate(self.code if found else ())
        return found | {f"code.{position}": module for position, module in more}

    def calls(self, stage: str) -> Iterator[tuple[str, str, tuple[str, ...], dict[str, Any]]]:
        """Leaf, place, positional arguments and options of each function that a stage calls."""
        if stage == "prepare":
            yield "data.call", self.data.call, ("seed",), self.data.options
        if stage != "train":
            return
        yield "model.call", self.model.call, ("seed",), self.model.options
        if self.loss not in LOSSES:
            yield "loss", self.loss, ("outputs", "targets"), {}
        if isinstance(self.optimizer, OwnOptimizer):
            yield "optimizer.call", self.optimizer.call, ("model",), self.optimizer.options
        for name, reference in self.training.metrics.items():
            yield f"training.metrics.{name}", reference, ("outputs", "targets"), {}


def slug(value: Scalar) -> str:
    """A swept value as part of a file's name."""
    return _UNNAMED.sub("-", str(value)).replace("+", "").strip("-.") or "none"


def _refuse_swept(expected: str, *keys: str | int) -> PydanticCustomError:
    """As :func:`refuse`; a leaf of the sweep is one key, whatever dots it has."""
    context = {"field": ("sweep", *keys), "expected": expected}
    return PydanticCustomError("combination", "expected {expected}", context)


def _no_leaf(leaf: str, plain: Mapping[str, Any]) -> PydanticCustomError:
    close = difflib.get_close_matches(leaf, list(_leaves(plain)), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return _refuse_swept(f"leaves of the case; there is no {leaf}{hint}", leaf)


def _leaves(plain: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in plain.items():
        yield f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name}.")


def _with(plain: Mapping[str, Any], values: Mapping[str, Scalar]) -> dict[str, Any]:
    """Set dotted leaves; only options may be new.

    Returns:
        A changed copy.

    Raises:
        KeyError: There is no such leaf; its only argument is the leaf.
    """
    changed: dict[str, Any] = deepcopy(dict(plain))
    for leaf, value in values.items():
        *way, last = leaf.split(".")
        here: Any = changed
        for key in way:
            here = here.get(key) if isinstance(here, dict) else None
        if not isinstance(here, dict) or (last not in here and way[-1:] != ["options"]):
            raise KeyError(leaf)
        here[last] = value
    return changed
