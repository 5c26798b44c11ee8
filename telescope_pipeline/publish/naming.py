"""How runs are called, grouped and recognised; known before a member is trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from telescope_core.trackers.protocol import RunDescription

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import Parameters

MEMBER, CASE = "member", "case"
"""Job types: one setting with one seed, and the case as a whole."""

_ID_LENGTH = 20
_LONGEST_TAG = 64


def id_of(*content: str) -> str:
    """The id of a run with this content."""
    return hashlib.sha256("\0".join(content).encode()).hexdigest()[:_ID_LENGTH]


def title_of(case_name: str) -> str:
    """A case as people write it."""
    return case_name.replace("_", " ")


def tags_of(parameters: Parameters, case_name: str) -> tuple[str, ...]:
    """The tags of the parameters, the case and its kind, each once."""
    own = (case_name, parameters.cases[case_name].kind)
    return tuple(dict.fromkeys(t[:_LONGEST_TAG] for t in (*parameters.tracking.tags, *own)))


@dataclass(frozen=True)
class Setting:
    """A member, as far as its run is called after it.

    Attributes:
        group: The members that differ only by seed share it.
        seed: Which seed of the group.
        values: The sweep values.
    """

    group: str
    seed: int
    values: Mapping[str, int | float | str]


def described_member(
    case_name: str, parameters: Parameters, member: Setting, key: str, question: str = ""
) -> RunDescription:
    """Describe the run of a member.

    Args:
        case_name: Its case.
        parameters: The validated parameters.
        member: The member.
        key: Under which it is trained, a hash of everything that decides its result.
        question: What the case asks, if that is known.

    Returns:
        The description; the id depends on the case's name and the key alone.
    """
    case = parameters.cases[case_name]
    words = [f"{name.replace('_', ' ')} {value}" for name, value in member.values.items()]
    setting = ", ".join(words) or member.group.replace("_", " ")
    group = f"{title_of(case_name)}: {setting}"
    # What only the case as a whole depends on would give the member another content.
    own = case.narrowed(member.values, member.seed)
    config = {
        "case": case_name,
        "kind": case.kind,
        "setting": member.group,
        "sweep": dict(member.values),
        "seed": member.seed,
        "parameters": own.model_dump(mode="json", exclude={"kind", "seeds", "claims", "plot"}),
        "run": parameters.run.model_dump(mode="json", include={"seed", "device", "threads"}),
    }
    notes = f"Seed {member.seed} of the setting {setting}."
    return RunDescription(
        id_of(case_name, key),
        f"{group}, seed {member.seed}",
        group,
        MEMBER,
        tags_of(parameters, case_name),
        config,
        notes=f"{question} {notes}".strip(),
    )
