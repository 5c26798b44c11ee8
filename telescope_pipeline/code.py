"""Which source files a module runs, found without running them.

The pipeline reruns a stage when its code changes, and reuses a trained member only while the code
that trained it is the same.  Both need the modules a module imports, directly or not, and nothing
else; reading the import statements gives them.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from telescope_core.errors import ConfigurationError

_OURS = ("telescope_core", "telescope_pipeline")

STAGE_MODULES: dict[str, tuple[str, ...]] = {
    "prepare": ("data",),
    "train": ("members", "training"),
    "metrics": ("metrics",),
    "plot": ("figures",),
    "publish": (),
}
"""The modules of a kind that each stage imports."""


def stage_modules(stage: str, kind: str | None = None) -> list[str]:
    """Name the modules from which a stage starts, the ones it imports by name included.

    Args:
        stage: A stage, e.g. ``"train"``.
        kind: The kind of the case, or None for a stage that belongs to no case.

    Returns:
        Module names for :func:`source_closure`.
    """
    modules = [f"telescope_pipeline.stages.{stage}"]
    if kind is not None:
        modules.append(f"telescope_pipeline.schemas.{kind}")
        modules += [f"telescope_pipeline.cases.{kind}.{part}" for part in STAGE_MODULES[stage]]
    return modules


def source_closure(*modules: str) -> list[Path]:
    """Find the files that importing some modules can run.

    Imports inside functions count, imports under ``if TYPE_CHECKING`` do not.  A package counts
    with its ``__init__`` and with the data files beside it.

    Args:
        *modules: Module names, e.g. ``"telescope_pipeline.cases.double_descent.training.train"``.

    Returns:
        Absolute paths, sorted by module name.

    Raises:
        ConfigurationError: If a module does not exist, or an import takes a name from a package
            that does not define it in plain sight.
    """
    return [path for _, path in sorted(_closure(modules).items())]


def code_digest(*modules: str) -> str:
    """Hash the closure of some modules: names and contents, not places.

    Args:
        *modules: Module names.

    Returns:
        A SHA-256 in hexadecimal.

    Raises:
        ConfigurationError: As for :func:`source_closure`.
    """
    digest = hashlib.sha256()
    for name, path in sorted(_closure(modules).items()):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return digest.hexdigest()


def _closure(modules: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = _locate(name)
        if path is None:
            raise ConfigurationError(f"there is no module {name}; check its name and its imports")
        found[name] = path.resolve()
        if path.name == "__init__.py":
            found |= _data_files(name, path.parent.resolve())
        parent = name.rpartition(".")[0]
        if parent:
            waiting.append(parent)
        waiting.extend(_imports(name, path))
    return found


def _data_files(package: str, folder: Path) -> dict[str, Path]:
    files = (path for path in folder.iterdir() if path.is_file() and path.name != "py.typed")
    return {f"{package}:{p.name}": p for p in files if p.suffix not in {".py", ".pyc", ".pyi"}}


def _locate(name: str) -> Path | None:
    folder = _folder(name)
    if folder is not None and (folder / "__init__.py").is_file():
        return folder / "__init__.py"
    parent, _, child = name.rpartition(".")
    above = _folder(parent) if parent else None
    path = above / f"{child}.py" if above else None
    return path if path is not None and path.is_file() else None


@cache
def _folder(package: str) -> Path | None:
    """Find a package's folder without importing the package or its parents."""
    parent, _, child = package.rpartition(".")
    if not parent:
        spec = importlib.util.find_spec(package)
        locations = spec.submodule_search_locations if spec else None
        return Path(next(iter(locations))).resolve() if locations else None
    above = _folder(parent)
    if above is None:
        return None
    if (above / child).is_dir():
        return above / child
    # An editable install maps `telescope_pipeline.stages` to a folder elsewhere.
    for finder in sys.meta_path:
        spec = finder.find_spec(package, [str(above)])
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))).resolve()
    return None


def _imports(name: str, path: Path) -> tuple[str, ...]:
    """The modules of ours that a file imports; files are read again when they change."""
    found = path.stat()
    return _imports_of(name, path, found.st_mtime_ns, found.st_size)


@cache
def _imports_of(name: str, path: Path, modified: int, size: int) -> tuple[str, ...]:
    return tuple(_read_imports(name, path))


def _read_imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in statements(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_ours(alias.name))
        else:
            base = absolute_base(node, package)
            if _is_ours(base):
                yield base
                for alias in node.names:
                    yield from _taken(base, alias.name, f"{path.name}, line {node.lineno}")


def _taken(base: str, attribute: str, where: str) -> Iterator[str]:
    """Say which module ``from base import attribute`` runs besides ``base``."""
    submodule = f"{base}.{attribute}"
    if _locate(submodule) is not None:
        yield submodule
        return
    path = _locate(base)
    if path is not None and path.name == "__init__.py" and attribute not in _bound(path):
        raise ConfigurationError(
            f"{where}: {base} does not define {attribute} in plain sight; "
            "import it from the module that does"
        )


@cache
def _bound(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return frozenset(names)


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Find the import statements of a parsed module, those for type checkers apart."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield from statements(ast.Module([other], []))
        else:
            yield from statements(child)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def absolute_base(node: ast.ImportFrom, package: str) -> str:
    """Name the module that ``from ... import`` takes from, inside ``package``."""
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_ours(name: str) -> bool:
    return name.split(".")[0] in _OURS
