"""``telescope doctor``: is everything in place for the pipeline to run?"""

from __future__ import annotations

import configparser
import netrc
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from telescope_core.errors import TelescopeError
from telescope_pipeline.executors.executor import processors, worker_count
from telescope_pipeline.parameters import Parameters, load_parameters
from telescope_pipeline.publish.options import check_tracking
from telescope_pipeline.store.folders import Layout

State = Literal["fine", "warning", "broken"]

_OLDEST = {
    "torch": (2, 6),
    "dvc": (3, 60),
    "wandb": (0, 19),
    "pydantic": (2, 10),
    "pandera": (0, 24),
}
_LEAST_FREE_GB = 2.0
_MARKS = {"fine": "[green]fine[/]", "warning": "[yellow]note[/]", "broken": "[bold red]broken[/]"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What was looked at.
        state: ``fine``, ``warning`` (it works, but mind this) or ``broken``.
        detail: What was found and, unless it is fine, what to do.
    """

    subject: str
    state: State
    detail: str


def examine(parameters_path: Path) -> list[Finding]:
    """Look at the installation, the parameters and the project's folder.

    Args:
        parameters_path: The parameter file; its folder is the project's.

    Returns:
        What was found.  Nothing is changed and no network is used.
    """
    root = Layout.beside(parameters_path).root
    findings = [
        Finding("Python", "fine", f"{platform.python_version()}, {sys.prefix}"),
        *map(_library, _OLDEST),
        _command(),
    ]
    parameters: Parameters | None = None
    try:
        parameters = load_parameters(parameters_path)
    except TelescopeError as error:
        findings.append(Finding("parameters", "broken", str(error)))
    else:
        findings.append(Finding("parameters", "fine", f"{len(parameters.cases)} cases, all valid"))
    findings += [_repository(root), _wiring(root, parameters), _writable(root), _disk(root)]
    findings.append(_scratch(root))
    if parameters is not None:
        findings += [_record(root, parameters), _processors(parameters), _tracker(parameters)]
    return findings


def show(findings: list[Finding]) -> None:
    """Print the findings as a table on standard output."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(_MARKS[finding.state], finding.subject, escape(finding.detail))
    Console().print(table)


def _library(name: str) -> Finding:
    oldest = _OLDEST[name]
    needed = f"{'.'.join(map(str, oldest))} or newer is needed: make setup"
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "broken", f"not installed; {needed}")
    parts = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    return (
        Finding(name, "fine", found)
        if parts >= oldest
        else Finding(name, "broken", f"{found}; {needed}")
    )


def _command() -> Finding:
    found = shutil.which("telescope")
    if found is None:
        detail = "not on the PATH, so DVC cannot start it; activate the environment or `make repro`"
        return Finding("telescope command", "broken", detail)
    if Path(found).parent.resolve() != Path(sys.executable).parent.resolve():
        detail = f"DVC would start {found}, another installation; activate this environment"
        return Finding("telescope command", "warning", detail)
    return Finding("telescope command", "fine", found)


def _repository(root: Path) -> Finding:
    for folder in (root, *root.parents):
        if (folder / ".dvc" / "config").is_file():
            return Finding("DVC repository", "fine", str(folder))
    return Finding("DVC repository", "broken", f"{root} has none; run `git init` and `dvc init`")


def _record(root: Path, parameters: Parameters) -> Finding:
    """Say whether results are there, and how those that ``dvc.lock`` names are to be had."""
    layout = Layout(root)
    missing = [
        name for name in parameters.cases if not (layout.results(name) / "metrics.json").is_file()
    ]
    if not (root / "dvc.lock").is_file():
        return Finding("results", "fine", "none yet: `dvc repro` makes them and writes dvc.lock")
    if not missing:
        return Finding("results", "fine", "there; commit dvc.lock to compare with them later")
    detail = f"dvc.lock is there, but nothing of {', '.join(missing)}: "
    if _has_remote(root):
        detail += "`dvc pull` brings what was pushed, and `dvc repro` makes the rest"
    else:
        detail += (
            "run `dvc repro`, or name the store that results were pushed to with "
            "`dvc remote add -d store FOLDER` and run `dvc pull`"
        )
    return Finding("results", "warning", detail)


def _has_remote(root: Path) -> bool:
    for folder in (root, *root.parents):
        if (folder / ".dvc").is_dir():
            config = configparser.ConfigParser(interpolation=None, strict=False)
            try:
                config.read([folder / ".dvc" / "config", folder / ".dvc" / "config.local"])
            except (configparser.Error, UnicodeDecodeError):
                return False
            return config.has_option("core", "remote")
    return False


def _wiring(root: Path, parameters: Parameters | None) -> Finding:
    from telescope_pipeline.scaffold.own_wiring import is_own
    from telescope_pipeline.wiring import disagreements

    if parameters is None:
        return Finding(
            "dvc.yaml", "broken", "cannot be compared with parameters that are not valid"
        )
    try:
        lines = disagreements(root, parameters.cases)
    except TelescopeError as error:
        return Finding("dvc.yaml", "broken", str(error))
    if lines:
        command = "telescope wire" if is_own(root) else "make wiring"
        return Finding("dvc.yaml", "broken", "\n".join([*lines, f"write them with `{command}`"]))
    for name, case in parameters.cases.items():
        if case.references("train") and not is_own(root):
            detail = (
                f"cases.{name} names code of yours, on which the stages of this pipeline do not "
                "depend: keep it in a pipeline made by `telescope init`"
            )
            return Finding("dvc.yaml", "broken", detail)
    return Finding("dvc.yaml", "fine", "names the code and the cases it should")


def _writable(root: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=root):
            pass
        for name in ("data", "runs", "results", "timing", ".telescope"):
            if (root / name).is_dir():
                with tempfile.TemporaryFile(dir=root / name):
                    pass
    except OSError as error:
        where = error.filename or root
        return Finding("folders", "broken", f"{where} cannot be written: {error.strerror}")
    return Finding("folders", "fine", f"{root} can be written")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 2**30
    if free < _LEAST_FREE_GB:
        detail = (
            f"{free:.1f} GB free; a full disk ends a stage, at least {_LEAST_FREE_GB} GB is safe"
        )
        return Finding("disk", "warning", detail)
    return Finding("disk", "fine", f"{free:.0f} GB free")


def _scratch(root: Path) -> Finding:
    folder = Layout(root).scratch
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    detail = f"{size:.0f} MB of finished members and checkpoints in {folder.name}/"
    return Finding("scratch folder", "fine", f"{detail}; deleting it costs only computing time")


def _processors(parameters: Parameters) -> Finding:
    run, there = parameters.run, processors()
    used = worker_count(run) * run.threads
    detail = f"{there}; {worker_count(run)} workers of {run.threads} threads"
    if run.executor != "local":
        return Finding("processors", "fine", f"{there} here; members run at {run.executor}")
    if used > there:
        return Finding("processors", "warning", f"{detail} will get in each other's way")
    return Finding("processors", "fine", detail)


def _tracker(parameters: Parameters) -> Finding:
    tracking = parameters.tracking
    if tracking.tracker == "none" or tracking.mode == "disabled":
        return Finding("tracker", "fine", "nothing is published")
    if tracking.tracker != "wandb":
        try:
            check_tracking(tracking)
        except TelescopeError as error:
            return Finding("tracker", "broken", str(error))
        return Finding("tracker", "fine", f"{tracking.tracker}, {tracking.mode}")
    key = _has_key()
    detail = f"{tracking.mode}; a W&B key is {'configured' if key else 'not configured'}"
    if tracking.mode == "online" and not key:
        return Finding("tracker", "broken", f"{detail}; run `wandb login` or choose another mode")
    return Finding("tracker", "fine", detail)


def _has_key() -> bool:
    """Say whether there is a key, without looking at it any further."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
