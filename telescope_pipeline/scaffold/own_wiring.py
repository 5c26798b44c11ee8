"""``dvc.yaml`` of a pipeline that ``telescope init`` made, from its parameters.

Every case has stages of its own, ``train-<case>`` and so on, since DVC cannot give the cases of one
group different lists of files: each names the user's code that it runs.  Telescope itself is
installed somewhere else, so a stage depends on its version, by ``requirements.txt``.  The first
stage checks parameters and code; the others wait for it, so that nothing is removed to make room
for what cannot be made.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from telescope_core.errors import ArtifactError, ConfigurationError
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.parameters.user_code import user_paths
from telescope_pipeline.schemas.sections import Case
from telescope_pipeline.store import files

TEMPLATES = Path(__file__).resolve().parent / "templates"
REQUIREMENTS = "requirements.txt"

_MARK = b"# Written by `telescope wire`"
_STAGES = ("prepare", "train", "metrics", "plot", "publish")
_LISTS = ("deps", "params", "outs", "metrics", "plots")
# Sections that a stage does not read; those of a kind's own are read by both stages.
_UNREAD = {
    "prepare": ("model", "optimizer", "training", "lens", "claims", "plot"),
    "train": ("kind", "data", "claims", "plot"),
}


def is_own(root: Path) -> bool:
    """Say whether the ``dvc.yaml`` in a folder is one that this module writes."""
    path = root / "dvc.yaml"
    return path.is_file() and files.read_bytes(path).startswith(_MARK)


def written(root: Path) -> str:
    """Write ``dvc.yaml`` anew for the parameters in a folder.

    Args:
        root: The folder of ``params.yaml``.

    Returns:
        The text of the file.

    Raises:
        ParametersError: If the parameters are not valid.
        ConfigurationError: If the present file has stages that this one would drop.
    """
    ours = ("validate", "report", *_STAGES)
    foreign = sorted(name for name in _declared(root) if name.partition("-")[0] not in ours)
    if foreign:
        raise ConfigurationError(
            f"{root / 'dvc.yaml'} has stages of another origin, {', '.join(foreign)}, which would "
            "be lost; move them to a dvc.yaml in a folder of their own"
        )
    return _text(root)


def disagreements(root: Path) -> list[str]:
    """Say where ``dvc.yaml`` differs from the parameters.

    Args:
        root: The folder of ``params.yaml``.

    Returns:
        A line per difference, sorted.

    Raises:
        ArtifactError: If the file is not valid YAML.
        ParametersError: If the parameters are not valid.
    """
    there, wanted = _declared(root), _parsed(_text(root), root)
    lines = [f"{name}: the stage is missing" for name in wanted.keys() - there.keys()]
    lines += [f"{name}: no case has this stage" for name in there.keys() - wanted.keys()]
    for name in wanted.keys() & there.keys():
        for key in _LISTS:
            lines += _differences(f"{name}: {key}", there[name].get(key), wanted[name].get(key))
        if there[name].get("cmd") != wanted[name]["cmd"]:
            lines.append(f"{name}: cmd is not {wanted[name]['cmd']}")
    return sorted(lines)


def check(root: Path) -> None:
    """Refuse a ``dvc.yaml`` that would not notice every change.

    Raises:
        ConfigurationError: With a line per difference.
    """
    lines = disagreements(root)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise ConfigurationError(
            f"{root / 'dvc.yaml'} differs from the parameters and the code:\n{listed}\n"
            "write it anew with `telescope wire`"
        )


def _text(root: Path) -> str:
    from jinja2 import Environment, StrictUndefined

    cases = [
        _case(name, case, root)
        for name, case in load_parameters(root / "params.yaml").cases.items()
    ]
    code = sorted({path for case in cases for stage in _UNREAD for path in case[stage]["code"]})
    environment = Environment(
        trim_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    template = environment.from_string((TEMPLATES / "dvc.yaml.j2").read_text("utf-8"))
    return template.render(cases=cases, code=code)


def _case(name: str, case: Case, root: Path) -> dict[str, Any]:
    # DVC refuses to depend on a section that the file leaves out.
    there = [key for key in type(case).model_fields if key in case.model_fields_set]
    stages = {
        stage: {
            "code": user_paths(case, stage, root),
            "sections": [key for key in there if key not in unread],
        }
        for stage, unread in _UNREAD.items()
    }
    return {"name": name, "claims": "claims" in there, **stages}


def _declared(root: Path) -> dict[str, dict[str, Any]]:
    path = root / "dvc.yaml"
    return _parsed(files.read_bytes(path).decode(), root) if path.is_file() else {}


def _parsed(text: str, root: Path) -> dict[str, dict[str, Any]]:
    try:
        stages = YAML(typ="safe", pure=True).load(text)["stages"]
        return {str(name): dict(stage) for name, stage in stages.items()}
    except (YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{root / 'dvc.yaml'}: not a pipeline: {error}") from None


def _differences(what: str, there: Any, wanted: Any) -> Iterator[str]:
    found, expected = ([str(entry) for entry in entries or []] for entries in (there, wanted))
    yield from (f"{what}: {entry} is missing" for entry in expected if entry not in found)
    yield from (f"{what}: {entry} has no use" for entry in found if entry not in expected)
