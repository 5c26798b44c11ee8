"""Building a report from blocks of wandb-workspaces; runs in the client's own process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from telescope_core.errors import MissingDependencyError
from telescope_pipeline.publish.conversation import Request, Tell
from telescope_pipeline.publish.wandb.client import connect, fetch_run

_ANSWERS = {None: "–", True: "holds", False: "does not hold"}

_Before = tuple[str, dict[str, Any]]


def save(request: Request, tell: Tell) -> None:
    """Save the page that a request describes, and read it back.

    Args:
        request: A :class:`~telescope_pipeline.publish.wandb.page.ReportPage` as JSON.
        tell: Told ``found``, ``saved`` and ``shown``.

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
    runs = {s["case"]: fetch_run(api, place, s["run"]) for s in request["sections"]}
    if absent := ", ".join(case for case, run in runs.items() if run is None):
        reason = f"the server does not hold the runs of {absent}; run `telescope sync` first"
        tell("stopped", reason=reason)
        return
    before = _before(api, place, request)
    tell("found")
    report = reports.Report(
        project=request["project"],
        entity=entity,
        title=request["title"],
        description=request["description"],
        blocks=list(_Page(reports, entity, request).blocks(runs, before)),
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


def _before(api: Any, place: str, request: Request) -> _Before | None:
    """The revision published last before this one: its name, and its cases' runs by case."""
    mine = {section["case"] for section in request["sections"]}
    found: dict[str, dict[str, Any]] = {}
    times: dict[str, str] = {}
    for run in api.runs(place, filters={"jobType": "case"}, order="+created_at"):
        case, group = run.config.get("case"), run.group
        if run.job_type == "case" and case in mine and group and group != request["group"]:
            found.setdefault(group, {})[case] = run
            times[group] = max(times.get(group, ""), str(run.created_at))
    if not found:
        return None
    # The runs come oldest first; of equal times the group seen last is the newest.
    latest = max(enumerate(found), key=lambda pair: (times[pair[1]], pair[0]))[1]
    return latest, found[latest]


@dataclass(frozen=True)
class _Page:
    """Makes the blocks of a page: ``request`` says what about, ``reports`` is their module."""

    reports: Any
    entity: str
    request: Request

    def blocks(self, runs: dict[str, Any], before: _Before | None) -> Iterator[Any]:
        claims = [claim for section in self.request["sections"] for claim in section["claims"]]
        held = sum(claim["holds"] for claim in claims)
        yield self.reports.MarkdownBlock(
            text=f"**{held} of {len(claims)} claims hold.** A claim is a check on measured "
            "numbers, evaluated by code; one that does not hold is shown as such."
        )
        yield self.reports.TableOfContents()
        for section in self.request["sections"]:
            yield from self._section(section, runs[section["case"]])
        yield self.reports.H1(text="Comparison with the previous revision")
        if before is None:
            yield self.reports.P(text="No earlier revision of these cases is in this project.")
        else:
            yield from self._comparison(*before)

    def _section(self, section: Request, run: Any) -> Iterator[Any]:
        reports, case, group = self.reports, section["case"], self.request["group"]
        yield reports.H1(text=case.replace("_", " ").capitalize())
        rows = [
            ["yes" if c["holds"] else "**no**", c["statement"], c["source"], c["observed"]]
            for c in section["claims"]
        ]
        yield reports.MarkdownBlock(text=_table(["holds", "claim", "source", "observed"], rows))
        panels = [
            reports.LinePlot(
                title=c["title"], x="step", y=list(c["keys"]), log_x=True, log_y=c["log_y"]
            )
            for c in section["curves"]
        ]
        if panels:
            chosen = self._runset(group, "members", case=case)
            yield reports.PanelGrid(runsets=[chosen], panels=panels)
        if section["pictures"]:
            figures = reports.MediaBrowser(media_keys=list(section["pictures"]), num_columns=2)
            own = self._runset(group, "case", case=case)
            yield reports.PanelGrid(runsets=[own], panels=[figures])
        base = run.url.rpartition("/runs/")[0]
        links = [f"[{name}]({base}/artifacts/{kind}/{name})" for kind, name in section["artifacts"]]
        text = f"Run: [{run.name}]({run.url}). Artifacts: {', '.join(links)}"
        yield reports.MarkdownBlock(text=text)

    def _comparison(self, group: str, earlier: dict[str, Any]) -> Iterator[Any]:
        rows = []
        for section in self.request["sections"]:
            run = earlier.get(section["case"])
            for claim in section["claims"]:
                now = claim["holds"]
                then = now if run is None else run.summary.get(f"claims/{claim['id']}")
                if then is not now:
                    rows.append([section["case"], claim["id"], _ANSWERS[then], _ANSWERS[now]])
        changed = _table(["case", "claim", "before", "now"], rows)
        same = "Every claim has the same answer as before."
        text = f"Previous revision: `{group}`.\n\n{changed if rows else same}"
        yield self.reports.MarkdownBlock(text=text)
        yield self.reports.PanelGrid(
            runsets=[
                self._runset(self.request["group"], "case", "this revision"),
                self._runset(group, "case", "previous revision"),
            ],
            panels=[
                self.reports.BarPlot(title="Claims that hold", metrics=["claims/held"]),
                self.reports.RunComparer(diff_only="split"),
            ],
        )

    def _runset(
        self, group: str, job_type: str, name: str = "runs", case: str | None = None
    ) -> Any:
        import wandb_workspaces.expr as expr

        filters = [expr.Metric("Group") == group, expr.Metric("JobType") == job_type]
        if case is not None:
            filters.append(expr.Config("case") == case)
        project = self.request["project"]
        return self.reports.Runset(entity=self.entity, project=project, name=name, filters=filters)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
