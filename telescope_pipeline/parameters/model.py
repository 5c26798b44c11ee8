"""The whole of ``params.yaml``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self, Union

from pydantic import BeforeValidator, Discriminator, Field, model_validator

from telescope_pipeline.parameters.kinds import KINDS
from telescope_pipeline.schemas.secrets import without_secrets
from telescope_pipeline.schemas.sections import (
    Case,
    NonNegativeInt,
    PositiveInt,
    Section,
    matching,
    refuse,
    word_or_count,
)

if TYPE_CHECKING:
    AnyCase = Case
else:
    # The union is built from the registry, so that this module names no kind.
    AnyCase = Annotated[Union[tuple(KINDS.values())], Discriminator("kind")]  # noqa: UP007

_TRACKER_NAME = matching("[A-Za-z0-9_.-]{1,128}", "at most 128 letters, digits, '_', '-' and '.'")

# A case names folders and DVC stages.
CaseName = Annotated[
    str, matching("[a-z][a-z0-9_]{0,63}", "a case name of small letters, digits and '_'")
]


class RunSettings(Section):
    """Where and how members are trained.

    Attributes:
        seed: The seed every other seed is derived from.
        device: A torch device: ``cpu``, ``cuda`` or ``cuda:<index>``.
        threads: Threads one member computes with; part of what makes a result reproducible.
        workers: Members trained at a time; ``auto`` fills the processors.
        executor: ``local``, or the address of a Dask scheduler, e.g. ``tcp://10.0.0.5:8786``.
    """

    seed: NonNegativeInt
    device: Annotated[str, matching("cpu|mps|cuda(:[0-9]+)?", "cpu, mps, cuda or cuda:<index>")] = (
        "cpu"
    )
    threads: PositiveInt = 1
    workers: Annotated[int | Literal["auto"], word_or_count("auto")] = "auto"
    executor: Annotated[
        str,
        matching(
            r"local|(tcp|tls|ucx|ws|wss)://\S+",
            "local, or a Dask scheduler's address such as tcp://host:8786",
        ),
    ] = "local"


class TrackingSettings(Section):
    """Where results are published.

    Attributes:
        tracker: ``wandb``, another one that is installed, or ``none`` to publish nothing.
        project: The project that receives the runs.
        entity: The account or team, or null for the default one; for ``wandb`` alone.
        mode: ``auto`` is online with a key and a reachable server, and offline otherwise.
        tags: Tags put on every run.
        options: What a tracker other than ``wandb`` takes besides.
    """

    tracker: Annotated[str, matching("[A-Za-z0-9_.-]{1,64}", "the name of a tracker")] = "wandb"
    project: Annotated[str, _TRACKER_NAME] = "telescope"
    entity: Annotated[str, _TRACKER_NAME] | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list)
    options: Annotated[
        dict[str, bool | int | float | str | None], BeforeValidator(without_secrets)
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _options_have_a_tracker(self) -> Self:
        if self.options and self.tracker in ("wandb", "none"):
            raise refuse("options", f"none, since {self.tracker} takes no options here")
        return self


class Parameters(Section):
    """The three sections of the file; ``cases`` maps a name to a case of some kind."""

    run: RunSettings
    tracking: TrackingSettings
    cases: Annotated[dict[CaseName, AnyCase], Field(min_length=1)]
