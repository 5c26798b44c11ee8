"""Keeps ``dvc.yaml`` in line with ``params.yaml`` and with the code.

DVC wants the files a stage depends on written out.  They follow from the import statements, so
they are compared with them (``telescope doctor``) and written from them (``make wiring``).  One
list serves all kinds of case, since DVC fills in names but not lists: a stage depends on its own
kind's files by name, and on every shared module that some kind imports.  The train stage looks
closer and trains a member again only if a file it really runs has changed.

The pipeline that ``telescope init`` makes is written by
:mod:`telescope_pipeline.scaffold.own_wiring`.

A pipeline may lie in a folder of its own below the project, as ``paper/`` does.  It has the stages
of the project's own ``dvc.yaml``, from which it is written: the paths to the code lead upwards, the
cases are those of its own ``params.yaml``, and its results are kept by git instead of DVC's cache.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from telescope_core.errors import ArtifactError, ConfigurationError, ParametersError
from telescope_pipeline.code import STAGE_MODULES, source_closure, stage_modules
from telescope_pipeline.parameters.kinds import KINDS
from telescope_pipeline.parameters.reading import load_parameters
from telescope_pipeline.scaffold import own_wiring
from telescope_pipeline.store import files

_MARK = "# code"
_KIND = "${item.kind}"
_ITEM = re.compile(r"^\s*- ")
_SECTION = re.compile(r"^\s*([a-z]+):$")
_RECEIPT = re.compile(r"^(\s*- results/)\w+(/receipt\.json)$")
_RESULT = re.compile(r"^(\s*)- results/\S+$")


def code_dependencies(stage: str, root: Path) -> list[str]:
    """List the code that ``dvc.yaml`` must name for a stage.

    Args:
        stage: A stage of ``dvc.yaml``.
        root: The folder of ``dvc.yaml``.

    Returns:
        Paths relative to ``root``, sorted; ``${item.kind}`` stands for the kind of the case.

    Raises:
        ConfigurationError: If a module cannot be followed or lies outside the project.
    """
    project = project_of(root)
    if stage not in STAGE_MODULES:
        named = set(_relative(source_closure(*stage_modules(stage)), project))
    else:
        named = set(_of_every_kind(stage, project))
    way = Path(os.path.relpath(project, root.resolve()))
    return sorted((way / path).as_posix() for path in folded(named, project))


def project_of(root: Path) -> Path:
    """Find the folder that holds the code: ``root``, or the nearest one above it.

    Raises:
        ConfigurationError: If there is none.
    """
    root = root.resolve()
    for folder in (root, *root.parents):
        if (folder / "telescope_core").is_dir():
            return folder
    raise ConfigurationError(
        f"neither {root} nor a folder above it holds the code of the project (telescope_core/)"
    )


def declared(root: Path) -> dict[str, list[str]]:
    """Read the ``deps`` of every stage in ``dvc.yaml``, as they are written.

    Raises:
        ArtifactError: If the file is missing or not valid YAML.
    """
    path = root / "dvc.yaml"
    content = files.read_bytes(path)
    try:
        pipeline: dict[str, Any] = YAML(typ="safe", pure=True).load(content)
        stages = pipeline["stages"].items()
        return {name: list(stage.get("do", stage).get("deps") or []) for name, stage in stages}
    except (YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a pipeline: {error}") from None


def disagreements(root: Path, cases: Sequence[str]) -> list[str]:
    """Say where ``dvc.yaml`` differs from the code and from the cases.

    Args:
        root: The folder of ``dvc.yaml``.
        cases: The names of the cases in ``params.yaml``.

    Returns:
        A line per difference; empty if there is none.
    """
    if own_wiring.is_own(root):
        return own_wiring.disagreements(root)
    lines = []
    for stage, deps in declared(root).items():
        code = {path for path in deps if _is_code(path)}
        expected = set(code_dependencies(stage, root))
        lines += [f"{stage}: {path} is imported but not in deps" for path in expected - code]
        lines += [f"{stage}: {path} is in deps but not imported" for path in code - expected]
    receipts = {path for path in declared(root).get("report", []) if path.startswith("results/")}
    wanted = {f"results/{case}/receipt.json" for case in cases}
    lines += [f"report: {path} is missing in deps" for path in wanted - receipts]
    lines += [f"report: {path} belongs to no case" for path in receipts - wanted]
    return sorted(lines)


def rewrite(root: Path) -> bool:
    """Write :func:`written` to ``dvc.yaml``.

    Returns:
        Whether the file changed.

    Raises:
        ArtifactError: If the file cannot be read or written.
        ParametersError: If the parameters beside it are not valid.
    """
    path = root / "dvc.yaml"
    before = files.read_bytes(path).decode() if path.exists() else ""
    after = written(root)
    if after != before:
        files.write_text(path, after)
    return after != before


def written(root: Path) -> str:
    """The text of ``dvc.yaml`` with its code lines anew: those after a ``# code`` comment.

    In a folder below the project all of it follows from the project's own file, and in a pipeline
    that ``telescope init`` made all of it follows from its parameters and the user's code.

    Raises:
        ArtifactError: If the file cannot be read.
        ParametersError: If the parameters beside it are not valid.
    """
    if own_wiring.is_own(root):
        return own_wiring.written(root)
    project = project_of(root)
    lines: Iterable[str] = files.read_bytes(project / "dvc.yaml").decode().splitlines()
    if project != root.resolve():
        lines = _below(lines, list(load_parameters(root / "params.yaml").cases))
    return "\n".join(_rewritten(lines, root)) + "\n"


def _below(lines: Iterable[str], cases: Sequence[str]) -> Iterator[str]:
    """Change the project's pipeline into that of a folder below it, the code lines apart."""
    section = ""
    named = False
    for line in lines:
        if match := _SECTION.match(line):
            section = match[1]
        if match := _RECEIPT.match(line):
            if not named:
                yield from (f"{match[1]}{case}{match[2]}" for case in cases)
            named = True
            continue
        result = _RESULT.match(line) if section in {"outs", "metrics", "plots"} else None
        yield f"{line}:" if result else line
        if result:
            yield f"{result[1]}    cache: false"


def _rewritten(lines: Iterable[str], root: Path) -> Iterator[str]:
    stage = ""
    skipping = False
    for line in lines:
        if skipping and _ITEM.match(line):
            continue
        skipping = line.strip() == _MARK
        if match := re.match(r"^  ([a-z]+):$", line):
            stage = match[1]
        yield line
        if skipping:
            indent = line[: len(line) - len(line.lstrip())]
            yield from (f"{indent}- {path}" for path in code_dependencies(stage, root))


def _of_every_kind(stage: str, project: Path) -> Iterator[str]:
    for kind in KINDS:
        for path in _relative(source_closure(*stage_modules(stage, kind)), project):
            generic = _generic(path, kind)
            everywhere = all((project / generic.replace(_KIND, other)).is_file() for other in KINDS)
            # What only one kind has is named as it is, or DVC would miss it in the others.
            yield generic if everywhere else path


def folded(paths: set[str], project: Path) -> Iterator[str]:
    """Name folders instead of their files where a stage depends on every one of them.

    DVC reads and writes its lock file anew for each stage, which takes seconds with thousands of
    paths in it.

    Args:
        paths: Files relative to the project; names with ``${item.kind}`` stay as they are.
        project: The folder that holds the code.

    Returns:
        Files and folders, in no order.
    """
    folders = {parent.as_posix() for path in paths for parent in Path(path).parents[:-1]}
    whole = {folder for folder in folders if _code_files(project, folder) <= paths}
    for path in paths | whole:
        if not any(parent.as_posix() in whole for parent in Path(path).parents):
            yield path


def _code_files(project: Path, folder: str) -> set[str]:
    found = (project / folder).rglob("*")
    return {
        path.relative_to(project).as_posix()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts and path.name != "py.typed"
    } or {folder}


def _relative(paths: Sequence[Path], root: Path) -> list[str]:
    outside = [path for path in paths if not path.is_relative_to(root)]
    if outside:
        message = f"{outside[0]} lies outside {root}; install the project with `pip install -e .`"
        raise ConfigurationError(message)
    return [path.relative_to(root).as_posix() for path in paths]


def _generic(path: str, kind: str) -> str:
    return re.sub(rf"^(cases|schemas)/{kind}(?=[/.])", rf"\1/{_KIND}", path)


def _is_code(path: str) -> bool:
    while path.startswith("../"):
        path = path.removeprefix("../")
    return path.split("/")[0] in {"cases", "pipeline", "schemas", "stages", "telescope_core"}


def main(folders: Sequence[str]) -> None:
    """Rewrite ``dvc.yaml`` in some folders, the working directory if none is named."""
    for name in folders or ["."]:
        path = Path(name) / "dvc.yaml"
        try:
            changed = rewrite(Path(name))
        except (ArtifactError, ConfigurationError, ParametersError) as error:
            sys.exit(f"error: {error}")
        sys.stdout.write(f"{path}: {'rewritten' if changed else 'in line with the code'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
