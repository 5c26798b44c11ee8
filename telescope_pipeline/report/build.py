"""Collecting what the report shows, and filling the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from telescope_core.errors import ArtifactError
from telescope_pipeline.publish.naming import CASE
from telescope_pipeline.publish.receipts import RECEIPT
from telescope_pipeline.publish.results import FigureFiles, read_results
from telescope_pipeline.publish.revision import Revision
from telescope_pipeline.report.comparison import compare
from telescope_pipeline.report.entries import Entry, entries_of
from telescope_pipeline.report.glossary import GLOSSARY
from telescope_pipeline.report.metrics import MetricsTable, tables_of
from telescope_pipeline.report.pictures import Picture, embedded
from telescope_pipeline.report.scripts import page_code
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

if TYPE_CHECKING:
    from telescope_pipeline.parameters.model import Parameters

_HERE = Path(__file__).resolve().parent
# Claims that do not hold are listed up to this number; the others are in the table.
_MOST_FAILING = 30
# A kind whose cases are about a user's model, not about findings of the paper.
_OWN = "own_model"
_PROPER = {"cifar10": "CIFAR-10", "mnist": "MNIST", "svhn": "SVHN"}
_RECEIPT_FIELDS = {"case", "mode_used", "reason", "group", "git_revision", "runs", "project"}
_RUN_FIELDS = {"id", "name", "kind", "url", "folder"}
_STATES = {
    "online": "published",
    "offline": "kept offline",
    "local": "published",
    "disabled": "not published",
    "failed": "not published",
}


@dataclass(frozen=True)
class ClaimView:
    """A claim as the page shows it."""

    id: str
    statement: str
    source: str
    holds: bool
    observed: tuple[Entry, ...]
    threshold: tuple[Entry, ...]


@dataclass(frozen=True)
class FigureView:
    """A figure as the page shows it.

    Attributes:
        name: File stem of its picture and its table.
        title: What it shows.
        see: What to look at, in one sentence.
        caption: What is drawn, and how.
        key: Numbers of the panels for the card.
        picture: The picture, for want of scripts.
        chart: Its description in Vega-Lite as JSON, safe inside a script element.
        table: Where the table is, from the project's folder.
    """

    name: str
    title: str
    see: str
    caption: str
    key: tuple[int, ...]
    picture: Picture
    chart: str
    table: str


@dataclass(frozen=True)
class RunView:
    """A published run; ``url`` is None unless a browser can follow it."""

    id: str
    name: str
    is_case: bool
    url: str | None
    folder: str | None


@dataclass(frozen=True)
class CaseView:
    """A case as the page shows it."""

    name: str
    title: str
    kind: str
    question: str
    headline: str
    revision: str
    commit: str | None
    state: str
    reason: str | None
    claims: list[ClaimView]
    figures: list[FigureView]
    metrics: list[MetricsTable]
    parameters: list[tuple[str, str]]
    runs: list[RunView]

    @property
    def held(self) -> int:
        """How many claims hold."""
        return sum(claim.holds for claim in self.claims)


def build_report(root: Path, parameters: Parameters, against: Path | None = None) -> str:
    """Write the report.

    Args:
        root: The project's folder.
        parameters: The validated parameters; the cases are shown in their order.
        against: Another checkout with results to compare with; None not to compare.

    Returns:
        HTML that needs no other file and no network; without scripts it shows the pictures in the
        place of the charts.  The same results give the same text.

    Raises:
        ArtifactError: If results or receipts are missing or damaged, here or there.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    layout = Layout(root)
    cases = [_case(layout, parameters, name) for name in parameters.cases]
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    run = parameters.run
    code = page_code()
    page = environment.get_template("page.html.j2")
    return page.render(
        style=Markup(code.style),
        early=Markup(code.early),
        late=[Markup(script) for script in code.late],
        policy=code.policy,
        cases=cases,
        titles={case.name: case.title for case in cases},
        comparison=None if against is None else compare(layout, against, list(parameters.cases)),
        revisions=list(dict.fromkeys(case.revision for case in cases)),
        commits=list(dict.fromkeys(case.commit for case in cases if case.commit)),
        uncommitted=any(Revision(c.commit, None).name != c.revision for c in cases),
        held=sum(case.held for case in cases),
        failing=[(case, claim) for case in cases for claim in case.claims if not claim.holds],
        most=_MOST_FAILING,
        papers=any(case.kind != _OWN for case in cases),
        own=any(case.kind == _OWN for case in cases),
        glossary=GLOSSARY,
        claims=sum(len(case.claims) for case in cases),
        settings=[("seed", str(run.seed)), ("device", run.device), ("threads", str(run.threads))],
    )


def _case(layout: Layout, parameters: Parameters, name: str) -> CaseView:
    case = parameters.cases[name]
    results, root = read_results(layout, name), layout.root
    receipt = _receipt(layout.results(name) / RECEIPT)
    runs = [_run(run) for run in receipt["runs"]]
    return CaseView(
        name=name,
        title=_title(name),
        kind=case.kind,
        question=results.question,
        headline=results.headline,
        revision=str(receipt["group"]),
        commit=receipt["git_revision"],
        state=_STATES.get(receipt["mode_used"], str(receipt["mode_used"])),
        reason=receipt["reason"],
        claims=[_claim(claim) for claim in results.claims],
        figures=[_figure(figure, root) for figure in results.figures],
        metrics=tables_of(results.metrics),
        parameters=list(_leaves("", case.model_dump(mode="json"))),
        runs=runs,
    )


def _title(name: str) -> str:
    text = " ".join(_PROPER.get(word, word) for word in re.split(r"[_\s]+", name))
    return text[:1].upper() + text[1:]


def _claim(claim: Mapping[str, Any]) -> ClaimView:
    return ClaimView(
        id=str(claim["id"]),
        statement=str(claim["statement"]),
        source=str(claim["source"]),
        holds=bool(claim["holds"]),
        observed=entries_of(claim["observed"]),
        threshold=entries_of(claim["threshold"]),
    )


def _figure(figure: FigureFiles, root: Path) -> FigureView:
    chart = json.dumps(figure.chart, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "&<>":
        chart = chart.replace(sign, f"\\u{ord(sign):04x}")
    return FigureView(
        name=figure.name,
        title=figure.title,
        see=figure.see,
        caption=figure.caption,
        key=figure.key,
        picture=embedded(figure.picture),
        chart=chart,
        table=figure.table.relative_to(root).as_posix(),
    )


def _receipt(path: Path) -> dict[str, Any]:
    receipt = files.read_json(path)
    complete = (
        isinstance(receipt, dict)
        and receipt.keys() >= _RECEIPT_FIELDS
        and isinstance(receipt["runs"], list)
        and all(isinstance(run, dict) and run.keys() >= _RUN_FIELDS for run in receipt["runs"])
    )
    if not complete:
        raise ArtifactError(f"{path}: not a receipt; run the publish stage again")
    return dict(receipt)


def _run(run: Mapping[str, Any]) -> RunView:
    url = run["url"]
    followable = isinstance(url, str) and url.startswith(("https://", "http://"))
    return RunView(
        id=str(run["id"]),
        name=str(run["name"]),
        is_case=run["kind"] == CASE,
        url=url if followable else None,
        folder=run["folder"],
    )


def _leaves(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Write nested parameters as dotted paths."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(f"{prefix}.{number}", item)
    else:
        # As precise as they are: these are not measured.
        yield prefix, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
