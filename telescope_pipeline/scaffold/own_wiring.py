"""``dvc.yaml`` of a pipeline that ``telescope init`` made, from its parameters and the user's code.

Every case has stages of its own, ``train-<case>`` and so on, since DVC cannot give the cases of one
group different lists of files: each names the user's files that it runs.  Telescope itself is
installed somewhere else, so a stage depends on its version, by ``requirements.txt``.  The first
stage checks parameters and code; the others wait for it, so that nothing is removed to make room
for what cannot be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from telescope_core.errors import ArtifactError, ConfigurationError
from telescope_pipeline.parameters.model import Parameters
from telescope_pipeline.parameters.reading import load_parameters
from telescope_pipeline.parameters.user_code import user_files, user_modules
from telescope_pipeline.store import files

REQUIREMENTS = "requirements.txt"
STAMP = "valid.txt"

_MARK = "# Written by `telescope wire`"
_HEADER = f"""\
{_MARK} from params.yaml and the imports of the code it names:
# run it again when a case, a section or an import is new. What is edited here is lost.
"""
_STAGES = ("prepare", "train", "metrics", "plot", "publish")
_VALIDATE, _REPORT = "validate", "report"
_OF_METRICS = ("history.parquet", "claims.json", "manifest.json")
_PUBLISHED = ("history.parquet", "claims.json", "metrics.json", "figures.json", "plots")
_LISTS = ("deps", "params", "outs", "metrics", "plots")


@dataclass(frozen=True)
class _Stage:
    """A stage of ``dvc.yaml``; ``uncached`` are outputs that DVC does not keep."""

    desc: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    plots: tuple[str, ...] = ()
    uncached: tuple[str, ...] = ()


def is_own(root: Path) -> bool:
    """Say whether the ``dvc.yaml`` in a folder is one that this module writes."""
    path = root / "dvc.yaml"
    return path.is_file() and files.read_bytes(path).startswith(_MARK.encode())


def written(root: Path) -> str:
    """The text of ``dvc.yaml`` for the parameters and the code in a folder.

    Args:
        root: The folder of ``params.yaml``.

    Raises:
        ParametersError: If the parameters are not valid.
        ConfigurationError: If the present file has stages that this one would drop.
    """
    parameters = load_parameters(root / "params.yaml")
    foreign = sorted(name for name in _declared(root) if not _is_ours(name))
    if foreign:
        raise ConfigurationError(
            f"{root / 'dvc.yaml'} has stages of another origin, {', '.join(foreign)}, which would "
            "be lost; move them to a dvc.yaml in a folder of their own"
        )
    return _HEADER + "\n".join(_text(_stages(parameters, root))) + "\n"


def disagreements(root: Path) -> list[str]:
    """Say where ``dvc.yaml`` differs from the parameters and the code.

    Args:
        root: The folder of ``params.yaml``.

    Returns:
        A line per difference; empty if there is none.

    Raises:
        ArtifactError: If the file is not valid YAML.
        ParametersError: If the parameters are not valid.
    """
    there = _declared(root)
    wanted = _parsed("\n".join(_text(_stages(load_parameters(root / "params.yaml"), root))), root)
    lines = [f"{name}: the stage is missing" for name in wanted.keys() - there.keys()]
    lines += [f"{name}: no case has this stage" for name in there if name not in wanted]
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


def _stages(parameters: Parameters, root: Path) -> Iterator[tuple[str, _Stage]]:
    code = {
        (stage, name): _user_files(user_modules(case, stage), root)
        for name, case in parameters.cases.items()
        for stage in ("prepare", "train")
    }
    yield (
        _VALIDATE,
        _Stage(
            desc="Check the parameters and the code they name",
            cmd=f"telescope validate --stamp {STAMP}",
            deps=(REQUIREMENTS, *sorted({path for paths in code.values() for path in paths})),
            params=("run", "tracking", "cases"),
            uncached=(STAMP,),
        ),
    )
    for name, case in parameters.cases.items():
        own = case.kind == "own_model"
        optional = [key for key in ("sweep", "claims") if key in case.model_fields_set]
        sweep = [key for key in optional if key == "sweep"]
        results = f"results/{name}"
        yield (
            f"prepare-{name}",
            _Stage(
                desc=f"Make the data sets of {name}",
                cmd=f"telescope prepare {name}",
                deps=(STAMP, REQUIREMENTS, *code["prepare", name]),
                params=(
                    "run.seed",
                    *_leaves(name, ["kind", "seeds", "data", *(["loss"] if own else []), *sweep]),
                ),
                outs=(f"data/{name}",),
            ),
        )
        sections = ["seeds", "model", "training", "lens"]
        yield (
            f"train-{name}",
            _Stage(
                desc=f"Train the members of {name} with the lens attached",
                cmd=f"telescope train {name}",
                deps=(f"data/{name}", REQUIREMENTS, *code["train", name]),
                params=(
                    *("run.seed", "run.threads", "run.device"),
                    *_leaves(name, [*sections, *(["loss", "optimizer"] if own else []), *sweep]),
                ),
                outs=(f"runs/{name}",),
            ),
        )
        yield (
            f"metrics-{name}",
            _Stage(
                desc=f"Sum up {name} and evaluate its claims",
                cmd=f"telescope metrics {name}",
                deps=(f"runs/{name}", REQUIREMENTS),
                params=tuple(_leaves(name, [key for key in optional if key == "claims"])),
                outs=tuple(f"{results}/{file}" for file in _OF_METRICS),
                metrics=(f"{results}/metrics.json",),
            ),
        )
        yield (
            f"plot-{name}",
            _Stage(
                desc=f"Draw the figures of {name}",
                cmd=f"telescope plot {name}",
                deps=(f"{results}/history.parquet", f"{results}/claims.json", REQUIREMENTS),
                params=tuple(_leaves(name, ["plot"])),
                outs=(f"{results}/figures.json",),
                plots=(f"{results}/plots",),
            ),
        )
        yield (
            f"publish-{name}",
            _Stage(
                desc=f"Hand the results of {name} to the tracker",
                cmd=f"telescope publish {name}",
                deps=(
                    *(f"data/{name}", f"runs/{name}"),
                    *(f"{results}/{file}" for file in _PUBLISHED),
                    REQUIREMENTS,
                ),
                params=("run.seed", "run.threads", "run.device", "tracking", f"cases.{name}"),
                outs=(f"{results}/receipt.json",),
            ),
        )
    yield (
        _REPORT,
        _Stage(
            desc="Write one self-contained page about all cases",
            cmd="telescope report",
            deps=(*(f"results/{name}/receipt.json" for name in parameters.cases), REQUIREMENTS),
            outs=("results/report.html",),
        ),
    )


def _leaves(case: str, keys: Iterable[str]) -> Iterator[str]:
    return (f"cases.{case}.{key}" for key in keys)


def _user_files(modules: tuple[str, ...], root: Path) -> list[str]:
    root = root.resolve()
    return [path.relative_to(root).as_posix() for path in user_files(modules, root).values()]


def _text(stages: Iterable[tuple[str, _Stage]]) -> Iterator[str]:
    yield "stages:"
    for position, (name, stage) in enumerate(stages):
        yield from ([""] if position else [])
        yield f"  {name}:"
        yield f"    desc: {stage.desc}"
        yield f"    cmd: {stage.cmd}"
        for key in _LISTS:
            entries = getattr(stage, key)
            uncached = stage.uncached if key == "outs" else ()
            if entries or uncached:
                yield f"    {key}:"
            yield from (f"      - {entry}" for entry in entries)
            for entry in uncached:
                yield f"      - {entry}:"
                yield "          cache: false"


def _is_ours(stage: str) -> bool:
    return stage in (_VALIDATE, _REPORT) or stage.partition("-")[0] in _STAGES


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
