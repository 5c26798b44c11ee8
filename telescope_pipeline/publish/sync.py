"""Sending what earlier publishing left offline.

Offline runs lie complete in folders of their own.  A receipt names the runs of its case, so what
is to be sent are the folders of those runs; what the server already holds is asked, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.conversation import Patience
from telescope_pipeline.publish.delivery import Delivery
from telescope_pipeline.publish.receipts import read_receipts
from telescope_pipeline.publish.wandb.folders import Shipment, shipments
from telescope_pipeline.publish.wandb.sending import send
from telescope_pipeline.store.folders import Layout

# Somebody asked for this and waits, unlike a pipeline that publishes on the way.
_PATIENCE = Patience(connect=20.0, send=30.0)

State = Literal["online", "pending", "missing"]


@dataclass(frozen=True)
class Sent:
    """What became of one run.

    Attributes:
        id: The run.
        case: The case whose receipt names it; ``"-"`` for a run of earlier results.
        state: ``"online"`` if the server showed it back whole, ``"pending"`` if its folder waits,
            ``"missing"`` if there is no whole folder.
        url: Its address at the server.
        reason: Why it is not online.
    """

    id: str
    case: str
    state: State
    url: str | None = None
    reason: str | None = None


def sync(layout: Layout, cases: Sequence[str], *, everything: bool = False) -> list[Sent]:
    """Send the runs that the receipts of some cases name, and see that they arrived.

    Args:
        layout: The project's folders.
        cases: The cases.
        everything: Send also complete folders that no receipt names, of earlier results.

    Returns:
        One entry a run, those of the cases first.

    Raises:
        ArtifactError: If there is nothing to send, or a receipt is damaged.
    """
    receipts = read_receipts(layout, cases)
    # Other trackers have nothing that waits.
    named = {run_id: case for case, r in receipts.items() if r.at_wandb for run_id in r.runs}
    found = shipments(layout.root)
    waiting = {shipment.id: (folder, shipment) for folder, shipment in found.items()}
    if everything:
        named |= {run_id: "-" for run_id in waiting if run_id not in named}
    if not named:
        raise ArtifactError(
            f"no runs to send: no case of {', '.join(cases)} was published; run `dvc repro`, or "
            "`telescope publish CASE`"
        )
    groups: dict[tuple[str, str | None], dict[Path, Shipment]] = {}
    for run_id in named:
        if run_id in waiting:
            folder, shipment = waiting[run_id]
            groups.setdefault((shipment.project, shipment.entity), {})[folder] = shipment
    deliveries: dict[str, Delivery] = {}
    for runs in groups.values():
        delivery = send(runs, root=layout.root, patience=_PATIENCE)
        deliveries |= {shipment.id: delivery for shipment in runs.values()}
    return [_sent(run_id, case, deliveries.get(run_id)) for run_id, case in named.items()]


def show(sent: Sequence[Sent]) -> None:
    """Print where each run is, and what to do about those that wait."""
    table = Table("case", "run", "where it is", box=None, pad_edge=False)
    for run in sent:
        where = run.url or f"[yellow]{run.state}[/]: {escape(run.reason or '')}"
        table.add_row(escape(run.case), run.id, where)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    counts = {state: sum(run.state == state for run in sent) for state in get_args(State)}
    console.print(f"{counts['online']} of {len(sent)} runs are at the server and were read back.")
    if counts["pending"]:
        console.print("Run `telescope sync` again for those that are pending.")
    if counts["missing"]:
        console.print("Run `telescope publish CASE` to write the missing ones anew.")


def _sent(run_id: str, case: str, delivery: Delivery | None) -> Sent:
    if delivery is None:
        return Sent(run_id, case, "missing", reason="its folder is gone or was changed")
    url = delivery.places[run_id].url
    if url is None:
        return Sent(run_id, case, "pending", reason=delivery.reason)
    return Sent(run_id, case, "online", url)
