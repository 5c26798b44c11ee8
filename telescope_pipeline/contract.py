"""What a kind of case provides, and what it is given.

A kind is a package with these modules:

- ``schema``: the pydantic model of the case
- ``sweep``: ``members(case) -> list[Member]``; imports no torch, since planning computes nothing
- ``data``: ``prepare(case, seed) -> Prepared``
- ``training.train``: ``train(job) -> Trained``, of a :class:`TrainingJob`
- ``metrics``: ``summarize(case, history) -> dict``
- ``claims``: ``claims(case, history) -> list[Claim]``
- ``figures``: ``QUESTION``, what the case asks; ``headline(case, history) -> str``, what was found,
  in one sentence that is computed; ``draw(case, history) -> list[Figure]``, the first of which goes
  with that sentence, each with a table whose first column is the x axis
- ``costs``, if members measure some: ``costs(case, members) -> list[str]``, lines about what they
  measured, by name of the member
- ``checks``, if it names functions of a user's: ``problems(case, stage) -> list[str]``

``case`` is the pydantic model of the kind and ``seed`` is ``run.seed``; every random number comes
from a seed derived from it by name.  A stage imports only what it needs: ``train`` plans with
``sweep``, and each of its workers imports ``training``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from telescope_core.seeds import derive_seed

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, device

    from telescope_pipeline.schemas.sections import Case

Scalar = int | float | str

Progress = Callable[[int, int], None]
"""Called with the work done and the work in total, as often as convenient."""

Recorded = Callable[[Mapping[str, int | float]], None]
"""Called with each row of the history in order, from the first one also when training goes on."""


@dataclass(frozen=True)
class Prepared:
    """Data sets, ready to be written.

    Attributes:
        files: For each file stem, the named tensors it holds.
        card: What a reader should know about the data; JSON-able.
    """

    files: dict[str, dict[str, Tensor]]
    card: dict[str, Any]


@dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
        name: Unique in the case and usable as a folder name, e.g. ``"width-0030_seed-0"``.
        group: The members that differ only by seed share it, e.g. ``"width-0030"``.
        seed: Which seed of the group, from 0.
        values: The sweep values, e.g. ``{"width": 30}``; the same keys in every member.
        data: Stem of the data file it trains on.
    """

    name: str
    group: str
    seed: int
    values: dict[str, Scalar]
    data: str


class Checkpoint(Protocol):
    """Where a member keeps its state while it trains.

    A resumed run must equal the uninterrupted one bit for bit.
    """

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the last saved tensors and state, or None if there is nothing to resume."""
        ...

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the saved state; ``state`` is JSON-able."""
        ...


CaseT = TypeVar("CaseT", bound="Case")


@dataclass(frozen=True)
class TrainingJob(Generic[CaseT]):
    """A member to train, and everything that its training is given.

    Attributes:
        case: The case's parameters.
        member: One of the case's members.
        data: Tensors of the member's file.
        seed: The run's seed.
        device: Where to compute.
        checkpoint: Where the state is kept.
        progress: Told about finished work.
        recorded: Told the rows of the history as they are recorded, by kinds that can.
    """

    case: CaseT
    member: Member
    data: dict[str, Tensor]
    seed: int
    device: device
    checkpoint: Checkpoint
    progress: Progress
    recorded: Recorded = lambda row: None

    def on_device(self) -> dict[str, Tensor]:
        """The data where it is computed with."""
        return {name: tensor.to(self.device) for name, tensor in self.data.items()}

    def seed_of(self, *purpose: str | int) -> int:
        """The seed of what these words name together, e.g. ``seed_of("weights")``.

        Returns:
            The seed; members of other groups that have the same number share it, so what the sweep
            compares starts from the same weights and sees the same batches.
        """
        return derive_seed(self.seed, self.case.kind, *purpose, self.member.seed)


@dataclass(frozen=True)
class Trained:
    """What a member leaves behind.

    Attributes:
        history: A wide table: ``step`` (int64, increasing) and one float64 column per quantity.
        final: The named tensors of the trained model.
        measured: Seconds and the like, which are facts of the machine: they are kept beside the
            seconds of the member and are no result.
    """

    history: pd.DataFrame
    final: dict[str, Tensor]
    measured: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A finding of the paper, checked against measured numbers.

    Attributes:
        id: Short and stable, e.g. ``"test-peak-near-threshold"``.
        statement: The finding in one sentence.
        source: Where the paper states it.
        observed: The measured numbers, JSON-able, with a standard error where over seeds.
        threshold: What the numbers are compared with, JSON-able.
        holds: Whether the claim holds on this run.
    """

    id: str
    statement: str
    source: str
    observed: Any
    threshold: Any
    holds: bool


@dataclass(frozen=True)
class Figure:
    """A plot and the numbers in it.

    Attributes:
        name: File stem of the picture and the table.
        title: What it shows, in a few words.
        caption: What is drawn, and how.
        chart: How it is drawn: a description in Vega-Lite that holds its data, JSON-able.
        table: The plotted numbers.
        see: What to look at, in one sentence that is true whatever the numbers.
        key: Of the first figure, the panels that say the most, where they are not all of them;
            numbers of views in ``concat``, from 0.
    """

    name: str
    title: str
    caption: str
    chart: dict[str, Any]
    table: pd.DataFrame
    see: str = ""
    key: tuple[int, ...] = ()
