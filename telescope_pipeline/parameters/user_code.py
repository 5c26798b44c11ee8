"""The user's own modules: which a case names, where they lie and what they import.

They lie in the folder of ``params.yaml`` or below.  Nothing is run to find them; what they import
from elsewhere is left to the versions of the libraries.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from telescope_pipeline.code import absolute_base, statements

if TYPE_CHECKING:
    from telescope_pipeline.schemas.sections import Case

_OURS = {"telescope_core", "telescope_pipeline"}


def make_importable(root: Path) -> None:
    """Let Python find the modules in a project's folder, after all installed ones.

    Args:
        root: The folder of ``params.yaml``.
    """
    folder = str(root.resolve())
    if folder not in sys.path:
        sys.path.append(folder)


def user_modules(case: Case, stage: str) -> tuple[str, ...]:
    """Name the modules of the user's that a stage of a case calls into.

    Args:
        case: Any case; only those of kind ``own_model`` have such modules.
        stage: A stage, e.g. ``"train"``.

    Returns:
        Module names, sorted.
    """
    from telescope_pipeline.cases.own_model.schema import OwnModelCase

    if not isinstance(case, OwnModelCase):
        return ()
    return tuple(sorted({place.partition(":")[0] for place in case.references(stage).values()}))


def user_files(modules: Iterable[str], root: Path) -> dict[str, Path]:
    """Find the files below a folder that importing some modules can run.

    Imports inside functions count, imports under ``if TYPE_CHECKING`` do not.

    Args:
        modules: Module names; those that do not lie below the folder are left out.
        root: The folder of ``params.yaml``.

    Returns:
        Absolute paths by module, sorted.
    """
    root = root.resolve()
    found: dict[str, Path] = {}
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if not name or name in seen or name.split(".")[0] in _OURS:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])
        path = locate(name, root)
        if path is not None:
            found[name] = path
            waiting.extend(_imports(name, path))
    return dict(sorted(found.items()))


def user_digest(modules: Iterable[str], root: Path) -> str:
    """Hash the files of :func:`user_files`: names and contents, not places.

    Returns:
        A SHA-256 in hexadecimal.
    """
    digest = hashlib.sha256()
    for name, path in user_files(modules, root).items():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


def locate(module: str, root: Path) -> Path | None:
    """Find the file of a module below a folder; None if there is none."""
    place = root.joinpath(*module.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if path.is_file():
            return path
    return None


def _imports(name: str, path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError):
        return  # importing it will tell
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = absolute_base(node, package)
            yield base
            # What is imported may be a module; if it is not, no file is found.
            yield from (f"{base}.{alias.name}" for alias in node.names)
