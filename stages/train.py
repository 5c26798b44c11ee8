"""``train``: train every member of a case, or fetch it from the scratch folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from telescope_core.errors import ArtifactError, ConfigurationError
from telescope_pipeline.contract import Member
from telescope_pipeline.executors.executor import open_executor
from telescope_pipeline.executors.jobs import Job
from telescope_pipeline.executors.member import FINAL, HISTORY, MANIFEST, TIMING, Task, train_member
from telescope_pipeline.parameters import RunSettings, load_case
from telescope_pipeline.parameters.user_code import make_importable
from telescope_pipeline.progress import watch
from telescope_pipeline.schemas.sections import Case
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout
from telescope_pipeline.store.manifest import key_of, manifest_of
from telescope_pipeline.store.scratch import Scratch

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.=-]*")


def run(case_name: str, parameters_path: Path) -> None:
    """Write ``runs/<case>/<member>/`` for every member, and ``timing/<case>.json``.

    Args:
        case_name: A case in the parameter file.
        parameters_path: The parameter file.

    Raises:
        TelescopeError: If the parameters or the data are not usable, a member fails, or nothing
            can be written.  Members finished before stay in the scratch folder.
    """
    parameters, case = load_case(parameters_path, case_name)
    layout = Layout.beside(parameters_path)
    make_importable(layout.root)
    scratch = Scratch(layout.scratch)
    tasks = _plan(case, parameters.run, layout.data(case_name), layout)
    keys = {task.member.name: key_of(dict(task.manifest)) for task in tasks}
    missing = [task for task in tasks if not scratch.holds(keys[task.member.name])]
    if parameters.tracking.live:
        # Showing them changes no result, so that nothing of it is a dependency of the stage.
        live = import_module("telescope_pipeline.publish.live").live_run
        missing = [
            replace(t, live=live(case_name, parameters, t.member, keys[t.member.name], layout.root))
            for t in missing
        ]
    found = len(tasks) - len(missing)
    if found:
        _LOG.info("train %s: %d of %d members are there already", case_name, found, len(tasks))
    if missing:
        jobs = [Job(task.member.name, train_member, task) for task in missing]
        with watch(f"train {case_name}", len(tasks), found) as watcher:
            for _ in open_executor(parameters.run).run(jobs, watcher):
                pass
    _assemble(layout, case_name, keys, scratch)
    trained_now = {task.member.name for task in missing}
    timing = {
        name: {**_timing(scratch, key), "from_scratch_folder": name not in trained_now}
        for name, key in keys.items()
    }
    files.write_json(layout.timing(case_name), {"case": case_name, "members": timing})


def members_left(case_name: str, parameters_path: Path) -> tuple[list[str], int]:
    """Tell what :func:`run` would train.

    Args:
        case_name: A case in the parameter file.
        parameters_path: The parameter file.

    Returns:
        Names of members that are not in the scratch folder, and how many there are in all.  Without
        the data nothing can be found there.

    Raises:
        TelescopeError: If the parameters are not usable.
    """
    parameters, case = load_case(parameters_path, case_name)
    layout = Layout.beside(parameters_path)
    make_importable(layout.root)
    try:
        tasks = _plan(case, parameters.run, layout.data(case_name), layout)
    except ArtifactError:
        sweep = import_module(f"telescope_pipeline.cases.{case.kind}.sweep")
        names = [member.name for member in sweep.members(case)]
        return names, len(names)
    scratch = Scratch(layout.scratch)
    left = [t.member.name for t in tasks if not scratch.holds(key_of(dict(t.manifest)))]
    return left, len(tasks)


def _plan(case: Case, run: RunSettings, data: Path, layout: Layout) -> list[Task]:
    # Not `training`: that would load torch, which only the workers need.
    sweep = import_module(f"telescope_pipeline.cases.{case.kind}.sweep")
    members: list[Member] = sweep.members(case)
    _check_members(members)
    card = files.read_json(data / "dataset.json")
    tasks = []
    for member in members:
        narrowed = case.narrowed(member.values, member.seed)
        if member not in sweep.members(narrowed):
            raise ConfigurationError(
                f"{member.name} is not a member of its own narrowed case; "
                f"{type(case).__name__}.narrowed must keep {member.values}, seed {member.seed}"
            )
        path = data / f"{member.data}.safetensors"
        expected = card["files"].get(path.name, {}).get("sha256")
        if expected is None or files.sha256(path) != expected:
            message = f"{path} is not the file that dataset.json describes; prepare the data again"
            raise ArtifactError(message)
        manifest = manifest_of(narrowed, member, run, expected, layout.root)
        task = Task(narrowed, member, run, path, manifest, layout.root, layout.scratch)
        tasks.append(task)
    return tasks


def _check_members(members: Sequence[Member]) -> None:
    """Refuse a sweep whose members cannot be told apart."""
    if not members:
        raise ConfigurationError("the case has no members; a sweep needs at least one value")
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            raise ConfigurationError(f"two members are called {member.name}; names must differ")
        if not _NAME.fullmatch(member.name):
            message = f"{member.name!r} cannot name a folder; use letters, digits and _ . = -"
            raise ConfigurationError(message)
        if member.values.keys() != members[0].values.keys():
            message = (
                f"{member.name} has the sweep values {list(member.values)}, "
                f"{members[0].name} has {list(members[0].values)}; expected the same"
            )
            raise ConfigurationError(message)
        seen.add(member.name)


def _assemble(layout: Layout, case_name: str, keys: dict[str, str], scratch: Scratch) -> None:
    with files.new_folder(layout.runs(case_name)) as folder:
        for name, key in keys.items():
            for file in (HISTORY, FINAL, MANIFEST):
                files.write_bytes(folder / name / file, files.read_bytes(scratch.path(key, file)))


def _timing(scratch: Scratch, key: str) -> dict[str, Any]:
    timing: dict[str, Any] = files.read_json(scratch.path(key, TIMING))
    return timing
