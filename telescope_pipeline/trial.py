"""One trial of a sweep: a case with some leaves changed, in a folder of its own.

``telescope trial`` is what an agent of W&B Sweeps runs, and it works without one.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from telescope_core.errors import ParametersError
from telescope_core.trackers.protocol import Cell
from telescope_core.trackers.wandb import WandbTracker
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.parameters.user_code import user_paths
from telescope_pipeline.publish.naming import id_of
from telescope_pipeline.publish.records import summary_of
from telescope_pipeline.publish.results import read_numbers
from telescope_pipeline.store import files
from telescope_pipeline.store.folders import Layout

_STAGES = ("prepare", "train", "metrics")


def run(case_name: str, changes: Sequence[str], parameters_path: Path) -> dict[str, Cell]:
    """Prepare, train and sum up a case with other settings.

    The trial lies in ``.telescope/trials/``, found again by what it changes; nothing of the
    project itself changes.  Under an agent of W&B Sweeps its numbers go to the agent's run.

    Args:
        case_name: A case in the parameter file.
        changes: ``LEAF=VALUE`` each, the leaf as a dotted path in the file or in the case, the
            value in YAML.
        parameters_path: The parameter file.

    Returns:
        The metrics, and which claims hold, by name.

    Raises:
        ParametersError: If the file with these changes is not usable.
        TelescopeError: Whatever a stage raises.
    """
    layout = Layout.beside(parameters_path)
    text = _changed(parameters_path, case_name, changes)
    folder = layout.scratch / "trials" / id_of(text)
    path = folder / "params.yaml"
    files.write_text(path, text)
    case = load_parameters(path).cases[case_name]
    for name in {name for stage in _STAGES for name in user_paths(case, stage, layout.root)}:
        source = layout.root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, dirs_exist_ok=True)
        else:
            shutil.copy(source, folder / name)
    for stage in _STAGES:
        import_module(f"telescope_pipeline.stages.{stage}").run(case_name, path)
    numbers = summary_of(*read_numbers(Layout(folder), case_name))
    if "WANDB_SWEEP_ID" in os.environ:
        _tell_agent(case_name, numbers)
    return numbers


def _changed(path: Path, case_name: str, changes: Sequence[str]) -> str:
    """The parameter file with this case alone and its leaves changed."""
    load_parameters(path)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    content = yaml.load(path)
    if case_name not in content["cases"]:
        known = ", ".join(content["cases"])
        raise ParametersError(f"got the case {case_name!r}; expected one of {known}")
    content["cases"] = {case_name: content["cases"][case_name]}
    content["tracking"] = {"tracker": "none"}
    for change in changes:
        leaf, equals, value = change.lstrip("-").partition("=")
        try:
            parsed = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            parsed = value
        keys = leaf.split(".")
        if keys[0] not in content:
            keys = ["cases", case_name, *keys]
        if not equals or not _set(content, keys, parsed):
            raise ParametersError(
                f"got {change!r}; expected LEAF=VALUE, where the leaf's section is in {path.name}, "
                "such as training.epochs=5"
            )
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def _set(content: Any, keys: Sequence[str], value: Any) -> bool:
    *sections, last = keys
    for key in sections:
        content = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(content, dict):
        return False
    content[last] = value
    return True


def _tell_agent(case_name: str, numbers: Mapping[str, Cell]) -> None:
    """Put the numbers into the run that the agent set up, whose config it has filled."""
    import wandb

    settings = WandbTracker("", mode="online").settings()
    with wandb.init(config={"case": case_name}, job_type="trial", settings=settings) as run:
        run.log({name: value for name, value in numbers.items() if value is not None})
