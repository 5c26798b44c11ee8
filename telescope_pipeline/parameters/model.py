"""The whole of ``params.yaml``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, SerializeAsAny, model_validator
from pydantic_core import PydanticKnownError

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

_TRACKER_NAME = matching("[A-Za-z0-9_.-]{1,128}", "at most 128 letters, digits, '_', '-' and '.'")

# A case names folders and DVC stages.
CaseName = Annotated[
    str, matching("[a-z][a-z0-9_]{0,63}", "a case name of small letters, digits and '_'")
]


def _of_its_kind(value: Any) -> Any:
    """Validate a case with the schema of its kind, and import no other kind's."""
    if isinstance(value, Case):
        return value
    if not isinstance(value, Mapping):
        raise PydanticKnownError("model_type", {"class_name": "Case"})
    if "kind" not in value:
        raise PydanticKnownError("union_tag_not_found", {"discriminator": "'kind'"})
    kind = value["kind"]
    if kind not in KINDS:
        expected = ", ".join(f"'{each}'" for each in KINDS)
        context = {"discriminator": "'kind'", "tag": str(kind), "expected_tags": expected}
        raise PydanticKnownError("union_tag_invalid", context)
    return KINDS[kind].model_validate(value)


AnyCase = Annotated[SerializeAsAny[Case], PlainValidator(_of_its_kind)]


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
        live: Whether a member's run appears when its training starts, and streams.
        tags: Tags put on every run.
        options: What a tracker other than ``wandb`` takes besides.
    """

    tracker: Annotated[str, matching("[A-Za-z0-9_.-]{1,64}", "the name of a tracker")] = "wandb"
    project: Annotated[str, _TRACKER_NAME] = "telescope"
    entity: Annotated[str, _TRACKER_NAME] | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    live: bool = False
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
