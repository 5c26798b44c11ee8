from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from telescope_core.errors import ConfigurationError
from telescope_pipeline import code
from telescope_pipeline.code import code_digest, source_closure


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package called ``ours`` whose modules import each other."""
    folder = tmp_path / "ours"
    files = {
        "__init__.py": "",
        "a.py": "import os\nfrom ours.sub import named\nfrom ours import b\n",
        "b.py": "def later():\n    import ours.c\n",
        "c.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from ours import unused\n"
            "else:\n    from ours import used\n"
        ),
        "unused.py": "",
        "used.py": "from .sub.deep import x\n",
        "lone.py": "",
        "bad.py": "from ours.sub import hidden\n",
        "broken.py": "import ours.nowhere\n",
        "sub/__init__.py": "from ours.sub.home import named\ndef __getattr__(name): ...\n",
        "sub/home.py": "named = 1\n",
        "sub/deep.py": "x = 1\n",
        "sub/page.html": "<p>",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code, "_OURS", ("ours",))
    code._folder.cache_clear()
    code._bound.cache_clear()
    yield folder
    code._folder.cache_clear()
    code._bound.cache_clear()


def _names(folder: Path, module: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in source_closure(module)}


def test_the_closure_is_what_an_import_can_run(package: Path) -> None:
    assert _names(package, "ours.a") == {
        "__init__.py",
        "a.py",
        "b.py",
        "c.py",
        "used.py",
        "sub/__init__.py",
        "sub/home.py",
        "sub/deep.py",
        "sub/page.html",
    }
    assert _names(package, "ours.lone") == {"__init__.py", "lone.py"}
    assert "ours" not in sys.modules


def test_an_import_that_cannot_be_followed_is_refused(package: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"bad\.py, line 1.*does not define hidden"):
        source_closure("ours.bad")
    with pytest.raises(ConfigurationError, match=r"no module ours\.nowhere"):
        source_closure("ours.broken")


@pytest.mark.parametrize(
    ("changed", "differs"), [("used.py", True), ("sub/page.html", True), ("unused.py", False)]
)
def test_the_digest_follows_the_closure(changed: str, differs: bool, package: Path) -> None:
    before = code_digest("ours.a")
    assert code_digest("ours.a") == before
    with (package / changed).open("a") as stream:
        stream.write("# changed\n")
    assert (code_digest("ours.a") != before) is differs


def test_the_digest_does_not_depend_on_the_place(package: Path, tmp_path: Path) -> None:
    before = code_digest("ours.a")
    moved = tmp_path / "elsewhere" / "ours"
    moved.parent.mkdir()
    package.rename(moved)
    code._folder.cache_clear()
    sys.path.insert(0, str(moved.parent))
    try:
        sys.path_importer_cache.clear()
        assert code_digest("ours.a") == before
    finally:
        sys.path.remove(str(moved.parent))


def test_the_own_packages_are_found_without_importing_them(repository: Path) -> None:
    closure = source_closure("telescope_pipeline.stages.metrics")
    names = {path.relative_to(repository).as_posix() for path in closure}
    assert {"stages/metrics.py", "schemas/tables.py", "telescope_core/errors.py"} <= names
    assert not any(name.startswith("telescope_core/jacobians") for name in names)
