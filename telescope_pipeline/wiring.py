"""Keeps ``dvc.yaml`` in line with ``params.yaml``, as far as DVC cannot do so itself.

The code that a stage depends on is named by folders and written by hand.  What follows from the
cases is compared (``telescope doctor``) and written (``make wiring``): the report waits for
receipt and figures of each, and all from ``plots`` on is made from the cases and their kinds.

A pipeline may lie in a folder of its own below the project, as ``paper/`` does.  It has the stages
of the project's own ``dvc.yaml``, from which it is written: the paths to the code lead upwards, the
cases are those of its own ``params.yaml``, and its results are kept by git instead of DVC's cache.

A pipeline that ``telescope init`` made is written by ``scaffold/own_wiring.py``.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from telescope_core.errors import ConfigurationError, TelescopeError
from telescope_pipeline.parameters import load_parameters
from telescope_pipeline.scaffold import own_wiring
from telescope_pipeline.schemas.sections import Case
from telescope_pipeline.store import files

_CODE = re.compile(r'(?<![\w./-])(?=(?:schemas|stages|telescope_core|telescope_pipeline)[/,\s"])')
_SECTION = re.compile(r"^\s*([a-z]+):")
_RECEIPT = re.compile(r"^(\s*)results/(\w+)/receipt\.json, results/\2/figures\.json,$")
_RESULT = re.compile(r'"?((?:data|runs|results)/[^",\]]+)"?')

# Of a kind: its table; the x axis; the columns; the y axis' label; DVC's template; a title.
_ERRORS = "train_mse, test_mse; mean squared error; linear; errors"
_PLOTS = {
    "double_descent": [
        f"errors-and-effective-parameters; width; {_ERRORS} by width",
        "trajectories; train_effective_parameters; test_effective_parameters; "
        "test_effective_parameters; scatter; p_test over p_train",
    ],
    "grokking_polynomial": [
        f"errors-and-effective-parameters; step; {_ERRORS} over training",
    ],
}
_BY_CASE = "# Written from the cases.  `dvc plots` shows the last column of every table as well."


def written(root: Path, cases: Mapping[str, Case]) -> str:
    """Derive what ``dvc.yaml`` should say from the project's own.

    Args:
        root: The folder of ``dvc.yaml``.
        cases: The cases in the ``params.yaml`` beside it, by name.

    Returns:
        The text of the file.

    Raises:
        ArtifactError: If the project's file cannot be read.
        ConfigurationError: If there is no project here or above.
    """
    project = project_of(root)
    lines = files.read_bytes(project / "dvc.yaml").decode().splitlines()
    way = Path(os.path.relpath(project, root.resolve())).as_posix()
    return "\n".join(_rewritten(lines, cases, "" if way == "." else f"{way}/")) + "\n"


def project_of(root: Path) -> Path:
    """Find the folder that holds the code.

    Returns:
        ``root``, or the nearest folder above it.

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


def disagreements(root: Path, cases: Mapping[str, Case]) -> list[str]:
    """Say where ``dvc.yaml`` differs from what it should be; see :func:`written`.

    Returns:
        A line per difference.

    Raises:
        ArtifactError: If a file cannot be read.
        ConfigurationError: If there is no project here or above.
    """
    if own_wiring.is_own(root):
        return own_wiring.disagreements(root)
    there = files.read_bytes(root / "dvc.yaml").decode().splitlines()
    lines = _receipts(there, cases)
    if not lines and there != written(root, cases).splitlines():
        lines = [f"it differs from {project_of(root) / 'dvc.yaml'}, from which it is written"]
    return lines


def check(parameters_path: Path, cases: Mapping[str, Case]) -> None:
    """Refuse a pipeline whose report would miss a case or wait for one that is gone.

    Without it a case that was added is in no report, and one that was taken out stays in it.

    Args:
        parameters_path: The parameter file; only ``params.yaml`` belongs to a pipeline.
        cases: The cases in it.

    Raises:
        ArtifactError: If ``dvc.yaml`` cannot be read.
        ConfigurationError: With a line per difference.
        ParametersError: If the parameters of a project of one's own are not valid.
    """
    path = parameters_path.parent / "dvc.yaml"
    if parameters_path.name != "params.yaml" or not path.is_file():
        return
    if own_wiring.is_own(path.parent):
        own_wiring.check(path.parent)
        return
    lines = _receipts(files.read_bytes(path).decode().splitlines(), cases)
    if lines:
        listed = "\n".join(f"  {line}" for line in lines)
        raise ConfigurationError(
            f"{path} is not about the cases in {parameters_path}:\n{listed}\n"
            "write it anew with `telescope wire`"
        )


def _receipts(lines: Sequence[str], cases: Mapping[str, Case]) -> list[str]:
    found = {match[2] for line in lines if (match := _RECEIPT.match(line))}
    missing, useless = cases.keys() - found, found - cases.keys()
    return [
        *(f"report: results/{case}/receipt.json is missing in deps" for case in sorted(missing)),
        *(f"report: results/{case}/receipt.json belongs to no case" for case in sorted(useless)),
    ]


def rewrite(root: Path) -> bool:
    """Write ``dvc.yaml`` anew.

    Returns:
        Whether the file changed.

    Raises:
        ArtifactError: If the file cannot be read or written.
        ConfigurationError: If there is no project here or above.
        ParametersError: If the parameters beside it are not valid.
    """
    path = root / "dvc.yaml"
    before = files.read_bytes(path).decode() if path.exists() else ""
    cases = load_parameters(root / "params.yaml").cases
    after = own_wiring.written(root) if own_wiring.is_own(root) else written(root, cases)
    if after != before:
        files.write_text(path, after)
    return after != before


def _rewritten(lines: Sequence[str], cases: Mapping[str, Case], way: str) -> Iterator[str]:
    section, named = "", False
    for line in lines:
        if match := _SECTION.match(line):
            section = match[1]
        if line in (_BY_CASE, "plots:", "plots: []"):
            break
        if match := _RECEIPT.match(line):
            if not named:
                pairs = "results/{0}/receipt.json, results/{0}/figures.json,"
                yield from (f"{match[1]}{pairs.format(case)}" for case in cases)
            named = True
        elif way and section == "deps":
            yield _CODE.sub(way, line)
        elif way and section in {"outs", "metrics", "plots"}:
            yield _RESULT.sub(r'{"\1": {cache: false}}', line)
        else:
            yield line
    yield from _by_case(cases)


def _by_case(cases: Mapping[str, Case]) -> Iterator[str]:
    yield _BY_CASE
    plots = [(name, plot) for name, case in cases.items() for plot in _PLOTS.get(case.kind, [])]
    yield "plots:" if plots else "plots: []"
    for name, plot in plots:
        table, x, columns, label, template, title = plot.split("; ")
        yield f'  - "{name}: {title}":'
        yield f"      {{x: {x}, y_label: {label}, template: {template}, y: {{"
        yield f"        results/{name}/plots/{table}.csv: [{columns}]}}}}"
    yield "artifacts:"
    yield '  report: {path: results/report.html, type: report, desc: "Claims, figures and numbers"}'


def main(folders: Sequence[str]) -> None:
    """Rewrite ``dvc.yaml`` in some folders, the working directory if none is named."""
    for name in folders or ["."]:
        path = Path(name) / "dvc.yaml"
        try:
            changed = rewrite(Path(name))
        except TelescopeError as error:
            sys.exit(f"error: {error}")
        sys.stdout.write(f"{path}: {'rewritten' if changed else 'as it should be'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
