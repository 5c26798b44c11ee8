"""Building a report from blocks of wandb-workspaces; runs in the client's own process."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from telescope_core.errors import MissingDependencyError
from telescope_core.trackers._answers import Tell
from telescope_core.trackers._wandb_api import fetch_run

_STEP = "step"


def write_report(api: Any, entity: str, request: dict[str, Any], tell: Tell) -> None:
    """Save the page that a request describes, and read it back.

    Args:
        api: The client's public API.
        entity: The account or team.
        request: A :class:`~telescope_core.trackers.wandb_reports.ReportPage` as JSON.
        tell: Told ``found``, ``absent``, ``saved`` and ``shown``.

    Raises:
        MissingDependencyError: If wandb-workspaces is not installed.
    """
    try:
        reports: Any = import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise MissingDependencyError("wandb-workspaces is not installed") from error
    place = f"{entity}/{request['project']}"
    runs = {s["case"]: fetch_run(api, place, s["run"]) for s in request["sections"]}
    absent = [case for case, run in runs.items() if run is None]
    if absent:
        tell("absent", cases=absent)
        return
    before = _before(api, place, request)
    tell("found", earlier=before[0] if before else None)
    report = reports.Report(
        project=request["project"],
        entity=entity,
        title=request["title"],
        description=request["description"],
        blocks=list(_blocks(reports, entity, request, runs, before)),
        width="fluid",
    )
    same = next((r for r in api.reports(place) if r.display_name == request["title"]), None)
    if same is not None:
        report.id = same.id
    report.save()
    tell("saved", url=report.url)
    shown = reports.Report.from_url(report.url)
    if (shown.title, len(shown.blocks)) == (report.title, len(report.blocks)):
        tell("shown", url=report.url)


def _before(api: Any, place: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
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


def _blocks(
    reports: Any,
    entity: str,
    request: dict[str, Any],
    runs: dict[str, Any],
    before: tuple[str, dict[str, Any]] | None,
) -> Iterator[Any]:
    claims = [claim for section in request["sections"] for claim in section["claims"]]
    held = sum(claim["holds"] for claim in claims)
    yield reports.MarkdownBlock(
        text=f"**{held} of {len(claims)} claims hold.** A claim is a check on measured numbers, "
        "evaluated by code; one that does not hold is shown as such."
    )
    yield reports.TableOfContents()
    for section in request["sections"]:
        yield from _section(reports, entity, request, section, runs[section["case"]])
    yield reports.H1(text="Comparison with the previous revision")
    if before is None:
        yield reports.P(text="No earlier revision of these cases is in this project.")
    else:
        yield from _comparison(reports, entity, request, before)


def _section(
    reports: Any, entity: str, request: dict[str, Any], section: dict[str, Any], run: Any
) -> Iterator[Any]:
    yield reports.H1(text=section["case"].replace("_", " ").capitalize())
    yield reports.MarkdownBlock(text=_claims_table(section["claims"]))
    panels = [
        reports.LinePlot(title=c["title"], x=_STEP, y=list(c["keys"]), log_x=True, log_y=c["log_y"])
        for c in section["curves"]
    ]
    if panels:
        chosen = _runset(reports, entity, request, section["case"], "members", request["group"])
        yield reports.PanelGrid(runsets=[chosen], panels=panels)
    if section["pictures"]:
        figures = reports.MediaBrowser(media_keys=list(section["pictures"]), num_columns=2)
        own = _runset(reports, entity, request, section["case"], "case", request["group"])
        yield reports.PanelGrid(runsets=[own], panels=[figures])
    base = run.url.rpartition("/runs/")[0]
    links = [f"[{name}]({base}/artifacts/{kind}/{name})" for kind, name in section["artifacts"]]
    yield reports.MarkdownBlock(text=f"Run: [{run.name}]({run.url}). Artifacts: {', '.join(links)}")


def _claims_table(claims: list[dict[str, Any]]) -> str:
    rows = ["| holds | claim | source | observed |", "|---|---|---|---|"]
    for claim in claims:
        cells = ["yes" if claim["holds"] else "**no**", claim["statement"], claim["source"]]
        rows.append("| " + " | ".join(map(_cell, [*cells, claim["observed"]])) + " |")
    return "\n".join(rows)


def _comparison(
    reports: Any, entity: str, request: dict[str, Any], before: tuple[str, dict[str, Any]]
) -> Iterator[Any]:
    group, earlier = before
    rows = ["| case | claim | before | now |", "|---|---|---|---|"]
    for section in request["sections"]:
        run = earlier.get(section["case"])
        if run is None:
            continue
        for claim in section["claims"]:
            then = run.summary.get(f"claims/{claim['id']}")
            if then is not claim["holds"]:
                cells = [section["case"], claim["id"], _answer(then), _answer(claim["holds"])]
                rows.append("| " + " | ".join(map(_cell, cells)) + " |")
    changed = "\n".join(rows) if len(rows) > 2 else "Every claim has the same answer as before."
    yield reports.MarkdownBlock(text=f"Previous revision: `{group}`.\n\n{changed}")
    sets = [
        _runset(reports, entity, request, None, "case", name, label)
        for name, label in ((request["group"], "this revision"), (group, "previous revision"))
    ]
    yield reports.PanelGrid(
        runsets=sets,
        panels=[
            reports.BarPlot(title="Claims that hold", metrics=["claims/held"]),
            reports.RunComparer(diff_only="split"),
        ],
    )


def _runset(
    reports: Any,
    entity: str,
    request: dict[str, Any],
    case: str | None,
    job_type: str,
    group: str,
    name: str = "runs",
) -> Any:
    import wandb_workspaces.expr as expr

    filters = [expr.Metric("Group") == group, expr.Metric("JobType") == job_type]
    if case is not None:
        filters.append(expr.Config("case") == case)
    return reports.Runset(entity=entity, project=request["project"], name=name, filters=filters)


def _answer(holds: object) -> str:
    if holds is None:
        return "–"
    return "holds" if holds else "does not hold"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
