from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

_FOLDERS = {
    "telescope_core": "telescope_core",
    "pipeline": "telescope_pipeline",
    "cases": "telescope_pipeline.cases",
    "schemas": "telescope_pipeline.schemas",
    "stages": "telescope_pipeline.stages",
}


def _packages(repository: Path) -> set[str]:
    names = set()
    for folder, package in _FOLDERS.items():
        for init in (repository / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(repository / folder).parts
            names.add(".".join((package, *parts)))
    return names


def test_the_package_list_is_the_tree(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == _packages(repository)


def test_every_module_lies_in_a_package(repository: Path) -> None:
    for folder in _FOLDERS:
        for path in (repository / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), f"{path} is in no package"


def test_a_wheel_has_two_top_level_names_and_every_module(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="building without isolation needs setuptools")
    # A copy, since a build leaves folders behind and takes up what older builds have left.
    source = tmp_path / "source"
    source.mkdir()
    for folder in _FOLDERS:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / folder, source / folder, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    built = subprocess.run(
        [*command, "-w", str(tmp_path), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("telescope_lens-*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {"telescope_core", "telescope_pipeline"}
    expected = {
        "/".join([*package.split("."), *path.relative_to(source / folder).parts])
        for folder, package in _FOLDERS.items()
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    assert set(names) == expected


def test_folders_of_the_user_do_not_shadow_ours(tmp_path: Path) -> None:
    for name in ("schemas", "stages", "cases", "pipeline"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    script = (
        "import telescope_pipeline.contract, telescope_pipeline.stages\n"
        "import telescope_pipeline.parameters.model, telescope_core.errors\n"
        "import telescope_pipeline.cli\n"
        "import sys\n"
        "assert not {'schemas', 'stages', 'cases', 'pipeline'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_constraints_pin_versions_and_nothing_else(repository: Path) -> None:
    lines = [
        line
        for line in (repository / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), lines
    pins = dict(line.lower().split("==") for line in lines)
    assert pins["torch"] == "2.13.0"
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in wanted} - {"telescope-lens"}
    assert names <= set(pins), names - set(pins)


def test_the_core_does_not_know_the_pipeline(repository: Path) -> None:
    for path in (repository / "telescope_core").rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(from|import) (telescope_pipeline|dvc)\b", text, re.M), path


def test_schemas_know_neither_core_nor_stages(repository: Path) -> None:
    for path in (repository / "schemas").rglob("*.py"):
        text = path.read_text()
        forbidden = r"^\s*(from|import) (telescope_core|telescope_pipeline\.(?!schemas))"
        assert not re.search(forbidden, text, re.M), path
