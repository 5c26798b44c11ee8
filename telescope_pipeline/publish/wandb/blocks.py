"""Building a report from blocks of wandb-workspaces; runs in the client's own process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from telescope_core.errors import MissingDependencyError
from telescope_pipeline.publish.conversation import Request, Tell
from telescope_pipeline.publish.naming import CASE, title_of
from telescope_pipeline.publish.record import RunRecord
from telescope_pipeline.publish.wandb.client import connect, fetch_run
from telescope_pipeline.publish.wandb.parts import lacking
from telescope_pipeline.publish.wandb.presets import preset_name

_ANSWERS = {None: "–", True: "holds", False: "does not hold"}


def save(request: Request, tell: Tell) -> None:
    """Save the page that a request describes, and read it back.

    Args:
        request: A :class:`~telescope_pipeline.publish.wandb.page.ReportPage` as JSON.
        tell: Told ``read`` for every run, ``found``, ``saved`` and ``shown``.

    Raises:
        MissingDependencyError: If wandb or wandb-workspaces is not installed.
    """
    connection = connect(request, tell)
    if connection is None:
        return
    try:
        reports: Any = import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise MissingDependencyError(
            "a report at Weights & Biases needs the package wandb-workspaces; "
            "`pip install 'telescope-lens[reports]'`"
        ) from error
    import wandb.errors

    try:
        _save(reports, *connection, request, tell)
    except (wandb.errors.CommError, RuntimeError, ValueError) as error:
        reason = "the W&B server refused it or stopped answering; try again later"
        tell("stopped", reason=reason, detail=f"{type(error).__name__}: {error}")


def _save(reports: Any, api: Any, entity: str, request: Request, tell: Tell) -> None:
    place = f"{entity}/{request['project']}"
    cases = [_Case(s, [RunRecord.from_json(run) for run in s["runs"]]) for s in request["sections"]]
    for case in cases:
        case.read(api, place, tell)
    if unconfirmed := [text for case in cases for text in case.unconfirmed()]:
        return tell("stopped", reason="; ".join(unconfirmed))
    before = _before(api, place, cases)
    tell("found")
    page = _Page(reports, entity, request, cases)
    report = reports.Report(
        project=request["project"],
        entity=entity,
        title=request["title"],
        description=request["description"],
        blocks=list(page.blocks(before)),
        width="fluid",
    )
    same = next((r for r in api.reports(place) if r.display_name == request["title"]), None)
    if same is not None:
        report.id = same.id
    report.save()
    tell("saved")
    shown = reports.Report.from_url(report.url)
    if (shown.title, len(shown.blocks)) == (report.title, len(report.blocks)):
        tell("shown", url=report.url)


@dataclass
class _Case:
    """A section of the page, its runs, and what the server shows of them."""

    section: Request
    records: list[RunRecord]
    there: Any = None
    not_sent: int = 0
    not_whole: int = 0
    lacks: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.section["case"])

    @property
    def own(self) -> RunRecord:
        return self.records[-1]

    def read(self, api: Any, place: str, tell: Tell) -> None:
        for record in self.records:
            self.there = fetch_run(api, place, record.id)
            if self.there is None:
                self.not_sent += 1
            # Charts are extra: a server need not take any.
            elif lacks := replace(lacking(self.there, record), charts=frozenset()):
                self.not_whole += 1
                self.lacks |= dict.fromkeys(lacks.words())
            tell("read", id=record.id)

    def unconfirmed(self) -> Iterator[str]:
        every = f"{len(self.records)} runs of {self.name}"
        if self.not_sent:
            yield f"{self.not_sent} of {every} were not sent: run `telescope sync` first"
        if self.not_whole:
            yield (
                f"{self.not_whole} of {every} were sent and not read back whole, the server does "
                f"not show {', '.join(self.lacks)}: run `telescope sync` again"
            )

    def charts(self, entity: str) -> list[tuple[str, str, list[str]]]:
        """Preset, table and columns of the charts that the server draws."""
        drawn = self.there.rawconfig.get("_wandb", {}).get("visualize", {})
        return [
            (f"{entity}/{preset_name(chart)}", chart.table, list(chart.columns))
            for chart in self.own.charts
            if chart.key in drawn
        ]


def _before(api: Any, place: str, cases: Sequence[_Case]) -> dict[str, Any]:
    """The runs with the results that the cases had before, by case."""
    mine = {case.name: case.own.id for case in cases}
    found: dict[str, Any] = {}
    for run in api.runs(place, filters={"jobType": CASE}, order="+created_at"):
        name = run.config.get("case")
        if run.job_type != CASE or name not in mine or run.id == mine[name]:
            continue
        # The runs come oldest first; of equal times the one seen last is the newest.
        if name not in found or str(run.created_at) >= str(found[name].created_at):
            found[name] = run
    return found


@dataclass(frozen=True)
class _Page:
    """Makes the blocks of a page: ``request`` says what about, ``reports`` is their module."""

    reports: Any
    entity: str
    request: Request
    cases: Sequence[_Case]

    def blocks(self, before: dict[str, Any]) -> Iterator[Any]:
        claims = [claim for case in self.cases for claim in case.section["claims"]]
        held = sum(claim["holds"] for claim in claims)
        yield self.reports.MarkdownBlock(
            text=f"**{held} of {len(claims)} claims hold.** A claim is a check on measured "
            "numbers, evaluated by code; one that does not hold is shown as such."
        )
        yield self.reports.TableOfContents()
        for case in self.cases:
            yield from self._section(case)
        yield self.reports.H1(text="Comparison with earlier results")
        if before:
            yield from self._comparison(before)
        else:
            yield self.reports.P(text="No other results of these cases are in this project.")

    def _section(self, case: _Case) -> Iterator[Any]:
        reports = self.reports
        yield reports.H1(text=title_of(case.name).capitalize())
        rows = [
            ["yes" if c["holds"] else "**no**", c["statement"], c["source"], c["observed"]]
            for c in case.section["claims"]
        ]
        yield reports.MarkdownBlock(text=_table(["holds", "claim", "source", "observed"], rows))
        figures = [
            reports.CustomChart(
                query={"summaryTable": {"tableKey": table}},
                chart_name=preset,
                chart_fields={name: name for name in columns},
            )
            for preset, table, columns in case.charts(self.entity)
        ]
        if pictures := [picture.key for picture in case.own.pictures]:
            figures.append(reports.MediaBrowser(media_keys=pictures, num_columns=2))
        if figures:
            own = self._runset([case.own.id], "results")
            yield reports.PanelGrid(runsets=[own], panels=figures)
        if panels := list(self._curves(case)):
            members = self._runset([record.id for record in case.records[:-1]], "members")
            yield reports.PanelGrid(runsets=[members], panels=panels)
        url = str(case.there.url)
        base = url.rpartition("/runs/")[0]
        links = [f"[{a.name}]({base}/artifacts/{a.kind}/{a.name})" for a in case.own.artifacts]
        text = f"Run: [{case.there.name}]({url}). Artifacts: {', '.join(links)}"
        yield reports.MarkdownBlock(text=text)

    def _curves(self, case: _Case) -> Iterator[Any]:
        """Every seed; no error bars of the server's making: the charts have the pipeline's."""
        for curves in case.section["curves"]:
            yield self.reports.LinePlot(
                title=f"{curves['title']}: each seed, and their mean",
                x=case.own.description.step_key,
                y=list(curves["keys"]),
                log_x=True,
                log_y=curves["log_y"],
                groupby=self.reports.Config("setting"),
                groupby_aggfunc="mean",
                groupby_rangefunc="samples",
                max_runs_to_show=len(case.records),
            )

    def _comparison(self, earlier: dict[str, Any]) -> Iterator[Any]:
        rows = []
        for case in self.cases:
            run = earlier.get(case.name)
            for claim in case.section["claims"]:
                now = claim["holds"]
                then = now if run is None else run.summary.get(f"claims/{claim['id']}")
                if then is not now:
                    rows.append([case.name, claim["id"], _ANSWERS[then], _ANSWERS[now]])
        changed = _table(["case", "claim", "before", "now"], rows)
        same = "Every claim has the same answer as before."
        states = ", ".join(sorted({f"`{run.config.get('revision')}`" for run in earlier.values()}))
        text = f"Results before: of revision {states}.\n\n{changed if rows else same}"
        yield self.reports.MarkdownBlock(text=text)
        yield self.reports.PanelGrid(
            runsets=[
                self._runset([case.own.id for case in self.cases], "now"),
                self._runset([run.id for run in earlier.values()], "before"),
            ],
            panels=[
                self.reports.BarPlot(title="Claims that hold", metrics=["claims/held"]),
                self.reports.RunComparer(diff_only="split"),
            ],
        )

    def _runset(self, ids: list[str], name: str) -> Any:
        import wandb_workspaces.expr as expr

        chosen = [expr.Metric("ID").isin(ids)]
        project = self.request["project"]
        return self.reports.Runset(entity=self.entity, project=project, name=name, filters=chosen)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
