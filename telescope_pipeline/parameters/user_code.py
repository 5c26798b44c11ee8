"""The user's own code, which a case may name: where it lies, what is in it and whether it works.

It lies in the folder of ``params.yaml``.  A case that names ``my_model.network:build`` depends on
the folder ``my_model/`` as a whole, and one that names ``my_module:build`` on ``my_module.py``.
What comes from elsewhere is left to the versions of the libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from telescope_pipeline.parameters.model import Parameters
from telescope_pipeline.parameters.reading import problems_error
from telescope_pipeline.schemas.sections import Case


def make_importable(root: Path) -> None:
    """Let Python find the modules in a project's folder, after all installed ones."""
    folder = str(root.resolve())
    if folder not in sys.path:
        sys.path.append(folder)


def user_paths(case: Case, stage: str, root: Path) -> list[str]:
    """Find the user's code that a stage of a case calls into.

    Args:
        case: Any case; most name no code.
        stage: A stage, e.g. ``"train"``.
        root: The folder of ``params.yaml``.

    Returns:
        Folders and files relative to ``root``, sorted; modules that do not lie there are left out.
    """
    found = {_lying(reference, root) for reference in case.references(stage).values()}
    return sorted(path.name for path in found if path is not None)


def check_user_code(
    path: Path, parameters: Parameters, cases: Sequence[str], stages: Sequence[str]
) -> None:
    """Import the code that cases name and try it out as far as that takes no data.

    What is tried is up to the kind, in its module ``checks``.  Nothing is imported for cases that
    name no code.

    Args:
        path: The parameter file, in whose folder modules are looked for.
        parameters: Its content.
        cases: The cases to check.
        stages: The stages whose code to check.

    Raises:
        ParametersError: With a line per problem.
    """  # noqa: DOC501  # made by problems_error
    root = path.resolve().parent
    make_importable(root)
    lines = [
        f"cases.{name}.{problem}"
        for name in cases
        for stage in stages
        for problem in _problems(parameters.cases[name], stage, root)
    ]
    if lines:
        raise problems_error(path, lines)


def _problems(case: Case, stage: str, root: Path) -> Iterator[str]:
    references = case.references(stage)
    if not references:
        return
    before = set(sys.modules)
    checks = f"telescope_pipeline.cases.{case.kind}.checks"
    if find_spec(checks) is not None:
        yield from import_module(checks).problems(case, stage)
    for leaf, reference in references.items():
        own = _lying(reference, root)
        loaded = _file(reference.partition(":")[0])
        if own is not None and loaded is not None and not loaded.is_relative_to(own):
            yield (
                f"{leaf}: got {reference!r}; expected the module in {root}, but Python finds "
                f"another one called {own.stem} first: rename yours"
            )
    named = set(user_paths(case, stage, root))
    unnamed = {
        own.name
        for module in set(sys.modules) - before
        if (own := _lying(module, root)) is not None and own.name not in named
        if (loaded := _file(module)) is not None and loaded.is_relative_to(own)
    }
    for name in sorted(unnamed):
        leaf, reference = next(iter(references.items()))
        yield (
            f"{leaf}: got {reference!r}; expected code that imports nothing unnamed from {root}, "
            f"but {name} is imported, whose changes would go unnoticed: add {Path(name).stem} to "
            "the case's list `code`, or put both into one package"
        )


def _lying(reference: str, root: Path) -> Path | None:
    """Find the folder or the file of the user's to which a module or a function belongs."""
    place = root.resolve() / reference.partition(":")[0].partition(".")[0]
    file = place.with_name(f"{place.name}.py")
    if file.is_file() and not (place / "__init__.py").is_file():
        return file
    return place if place.is_dir() else None


def _file(module: str) -> Path | None:
    """Where a loaded module comes from."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return None if file is None else Path(file).resolve()
