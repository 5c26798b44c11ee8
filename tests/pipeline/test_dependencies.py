"""``dvc.yaml`` and the digest of a member's code name everything that a stage runs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from telescope_core.errors import ConfigurationError
from telescope_pipeline.parameters.kinds import KINDS
from telescope_pipeline.store.code import OF_KIND, SHARED, digest, training_digest

_PARTS = {
    "prepare": ("schema", "data"),
    "train": ("schema", "sweep", "training.train"),
    "metrics": ("schema", "metrics", "claims"),
    "plot": ("schema", "figures"),
    "publish": ("schema",),
    "report": (),
    "a member": ("training.train",),
}
_STAGES = tuple(_PARTS)[:-1]
_STARTS = {
    "train": ["telescope_pipeline.stages.train", "telescope_pipeline.executors.member"],
    "a member": [],
}
# Every kind is imported in a process of its own, forked once the heavy libraries and what all kinds
# need of the stage are loaded.
_SCRIPT = """
import ast, json, os, sys
from importlib import import_module
from pathlib import Path

stages, asked_for = json.loads(sys.argv[1])

def ours():
    return {
        module.__file__
        for name, module in sys.modules.items()
        if name.split(".")[0] in ("telescope_core", "telescope_pipeline")
        and getattr(module, "__file__", None)
    }

def late(path):
    "Modules that are imported inside functions."
    for function in ast.walk(ast.parse(Path(path).read_bytes())):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and not node.level:
                    yield node.module
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)

looked_at = set()

def close():
    global looked_at
    while waiting := ours() - looked_at:
        looked_at |= waiting
        for path in waiting:
            for name in late(path):
                if name.split(".")[0] in ("telescope_core", "telescope_pipeline"):
                    if not name.startswith(tuple(asked_for)):
                        try:
                            import_module(name)
                        except ModuleNotFoundError:
                            pass  # a name of the module, or a library that is not installed

import torch, pandas
for stage, start, kinds in stages:
    if not os.fork():
        for module in start:
            import_module(module)
        close()
        for kind, modules in kinds.items():
            if not os.fork():
                for module in modules:
                    import_module(module)
                close()
                print(json.dumps([stage, kind, sorted(ours())]), flush=True)
                os._exit(0)
            assert not os.wait()[1], kind
        os._exit(0)
    assert not os.wait()[1], stage
"""
# Imported when a user asks for it, which no case does.
_ASKED_FOR = ("telescope_core.live", "telescope_pipeline.executors.dask")


@cache
def _all() -> dict[str, dict[str, set[Path]]]:
    """The files of ours that stages import, by stage and kind of case."""
    stages = [
        (
            stage,
            _STARTS.get(stage, [f"telescope_pipeline.stages.{stage}"]),
            {
                kind: [f"telescope_pipeline.cases.{kind}.{part}" for part in parts]
                for kind in (KINDS if parts else ["any"])
            },
        )
        for stage, parts in _PARTS.items()
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT, json.dumps([stages, _ASKED_FOR])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, set[Path]]] = {stage: {} for stage in _PARTS}
    for line in done.stdout.splitlines():
        stage, kind, files = json.loads(line)
        found[stage][kind] = {Path(file).resolve() for file in files}
    return found


def _run(stage: str) -> dict[str, set[Path]]:
    return _all()[stage]


def _is_a_facade(path: Path) -> bool:
    """Say whether a module decides nothing: an ``__init__`` of a docstring and imports."""
    if path.name != "__init__.py":
        return False
    body = ast.parse(path.read_bytes()).body
    plain = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign)
    return path.parent.name == "telescope_core" or all(isinstance(node, plain) for node in body)


def _not_named(files: Iterable[Path], named: Iterable[Path]) -> set[str]:
    places = {path.resolve() for path in named}
    return {str(p) for p in files if not places & {p, *p.parents} and not _is_a_facade(p)}


@cache
def _declared(stage: str, repository: Path) -> tuple[str, ...]:
    stages = YAML(typ="safe", pure=True).load(repository / "dvc.yaml")["stages"]
    deps = stages[stage].get("do", stages[stage])["deps"]
    return tuple(path for path in deps if not path.startswith(("data/", "runs/", "results/")))


@pytest.mark.parametrize("stage", _STAGES)
def test_a_stage_depends_on_everything_it_runs(stage: str, repository: Path) -> None:
    declared = _declared(stage, repository)
    for kind, files in _run(stage).items():
        named = [repository / path.replace("${item.kind}", kind) for path in declared]
        assert not _not_named(files, named), kind


@pytest.mark.parametrize("stage", _STAGES)
def test_a_stage_depends_on_nothing_that_no_kind_runs(stage: str, repository: Path) -> None:
    files = {file for found in _run(stage).values() for file in found}
    run = files | {parent for file in files for parent in file.parents}
    for path in _declared(stage, repository):
        kinds = KINDS if "${item.kind}" in path else ["any"]
        places = {(repository / path.replace("${item.kind}", kind)).resolve() for kind in kinds}
        assert all(place.exists() for place in places), f"DVC would miss {path}"
        assert places & run, f"{stage} runs none of {path}"


def test_a_stage_depends_on_no_other_kind(repository: Path) -> None:
    for stage in _STAGES:
        for path in _declared(stage, repository):
            assert not re.search(r"cases(/(?!\$\{item\.kind\}/)|$)", path), path
            assert path != "telescope_pipeline"


def test_the_digest_of_a_members_code_covers_what_trains_it(repository: Path) -> None:
    for kind, files in _run("a member").items():
        folder = repository / "telescope_pipeline" / "cases" / kind
        named = [*(repository / path for path in SHARED), *(folder / path for path in OF_KIND)]
        assert not _not_named(files, named), kind


def test_the_digest_is_part_of_what_the_train_stage_names(repository: Path) -> None:
    named = {(repository / path).resolve() for path in _declared("train", repository)}
    for path in SHARED:
        place = (repository / path).resolve()
        assert named & {place, *place.parents}, path
    for path in OF_KIND:
        assert f"telescope_pipeline/cases/${{item.kind}}/{path}" in _declared("train", repository)


def test_kinds_have_digests_of_their_own() -> None:
    assert training_digest("depth") == training_digest("depth") != training_digest("own_model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "whole/a.py",
        "whole/deep/page.html",
        "whole/__pycache__/a.pyc",
        "lone.py",
        "no.py",
    ):
        (tmp_path / "code" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "code" / name).write_text(name)
    return tmp_path / "code"


def _digest(folder: Path) -> str:
    return digest({name: folder / name for name in ("whole", "lone.py")})


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ("whole/a.py", True),
        ("whole/deep/page.html", True),
        ("whole/new.py", True),
        ("lone.py", True),
        ("whole/__pycache__/a.pyc", False),
        ("no.py", False),
    ],
)
def test_a_digest_follows_names_and_contents(changed: str, differs: bool, folder: Path) -> None:
    before = _digest(folder)
    assert _digest(folder) == before
    (folder / changed).write_text("changed")
    assert (_digest(folder) != before) is differs


def test_a_digest_does_not_depend_on_the_place(folder: Path, tmp_path: Path) -> None:
    before = _digest(folder)
    folder.rename(tmp_path / "elsewhere")
    assert _digest(tmp_path / "elsewhere") == before


def test_code_that_is_missing_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"gone\.py: no such code"):
        digest({"gone.py": tmp_path / "gone.py"})
