"""What differs between these results and those of another revision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.receipts import read_receipts
from telescope_pipeline.publish.results import read_numbers
from telescope_pipeline.report.entries import Entry, entries_of
from telescope_pipeline.store.folders import Layout


@dataclass(frozen=True)
class ClaimChange:
    """A claim whose verdict or numbers differ; what is None or empty is not there.

    Attributes:
        case: The case.
        id: The claim.
        statement: What it says, now if it is there.
        held: Whether it held.
        holds: Whether it holds.
        before: What was observed.
        now: What is observed.
    """

    case: str
    id: str
    statement: str
    held: bool | None
    holds: bool | None
    before: tuple[Entry, ...]
    now: tuple[Entry, ...]


@dataclass(frozen=True)
class Comparison:
    """These results beside others.

    Attributes:
        revisions: At which the others were published; empty if they were not.
        changes: Claims that differ, those with another verdict first.
        same: How many claims are the same, to the last digit.
        metrics: By case, how many of its metrics differ and how many there are.
        new: Cases that the others do not have.
        gone: Cases that only the others have.
    """

    revisions: tuple[str, ...]
    changes: tuple[ClaimChange, ...]
    same: int
    metrics: Mapping[str, tuple[int, int]]
    new: tuple[str, ...]
    gone: tuple[str, ...]

    @property
    def turned(self) -> int:
        """How many claims have another verdict, or exist on one side only."""
        return sum(change.held != change.holds for change in self.changes)


def compare(layout: Layout, other: Path, cases: Sequence[str]) -> Comparison:
    """Compare the results of a project with those in another folder.

    Args:
        layout: The project's folders.
        other: Another checkout, with its ``results/``.
        cases: The cases of the project.

    Returns:
        What differs, by case in their order.

    Raises:
        ArtifactError: If the folder holds no results, or results are missing or damaged.
    """
    there = Layout(other)
    folder = other / "results"
    found = sorted(path.parent.name for path in folder.glob("*/claims.json"))
    if not found:
        raise ArtifactError(
            f"{folder}: no results to compare with; name a checkout of the project in which "
            "`dvc repro` or `dvc checkout` was run"
        )
    both = [case for case in cases if case in found]
    changes: list[ClaimChange] = []
    metrics = {}
    same = 0
    for case in both:
        sides = [read_numbers(side, case) for side in (there, layout)]
        before, now = ({str(claim["id"]): claim for claim in claims} for _, claims in sides)
        for claim in list(dict.fromkeys([*now, *before])):
            change = _change(case, claim, before.get(claim), now.get(claim))
            if change is None:
                same += 1
            else:
                changes.append(change)
        old, new = (dict(_leaves("", values)) for values, _ in sides)
        names = old.keys() | new.keys()
        metrics[case] = (sum(old.get(n, ...) != new.get(n, ...) for n in names), len(names))
    return Comparison(
        revisions=tuple(sorted({r.group for r in read_receipts(there, both).values()})),
        changes=tuple(sorted(changes, key=lambda change: change.held == change.holds)),
        same=same,
        metrics=metrics,
        new=tuple(case for case in cases if case not in found),
        gone=tuple(case for case in found if case not in cases),
    )


def _change(
    case: str, name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> ClaimChange | None:
    if before is not None and now is not None:
        keys = ("holds", "observed", "threshold")
        if all(before[key] == now[key] for key in keys):
            return None
    shown = now or before or {}
    return ClaimChange(
        case=case,
        id=name,
        statement=str(shown["statement"]),
        held=None if before is None else bool(before["holds"]),
        holds=None if now is None else bool(now["holds"]),
        before=() if before is None else entries_of(before["observed"]),
        now=() if now is None else entries_of(now["observed"]),
    )


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}", item)
    else:
        yield prefix, value
