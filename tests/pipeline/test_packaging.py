from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

_PACKAGES = ("telescope_core", "telescope_pipeline")


def _modules(repository: Path) -> set[str]:
    """What an installation holds: `stages` and `schemas` lie below telescope_pipeline by a link."""
    return {
        Path(folder, name).relative_to(repository).as_posix()
        for package in _PACKAGES
        for folder, _, names in os.walk(repository / package, followlinks=True)
        for name in names
        if "__pycache__" not in Path(folder).parts
    }


def test_stages_and_schemas_are_links(repository: Path) -> None:
    for name in ("stages", "schemas"):
        assert (repository / "telescope_pipeline" / name).readlink() == Path("..") / name


def test_every_module_lies_in_a_package(repository: Path) -> None:
    for name in _modules(repository):
        if name.endswith(".py"):
            init = (repository / name).with_name("__init__.py")
            assert init.is_file(), f"{name} is in no package"


def test_wheel_and_sdist_have_two_top_level_names_and_every_module(
    repository: Path, tmp_path: Path
) -> None:
    pytest.importorskip("setuptools", reason="building without isolation needs setuptools")
    # A copy, since a build leaves folders behind and takes up what older builds have left.
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in (*_PACKAGES, "stages", "schemas"):
        shutil.copytree(repository / name, source / name, ignore=skipped, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source / name)
    script = (
        "import sys\nfrom setuptools import build_meta\n"
        "target = sys.argv[1]\n"
        "build_meta.build_wheel(target)\nbuild_meta.build_sdist(target)\n"
    )
    built = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("telescope_lens-*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == set(_PACKAGES)
    assert set(names) == _modules(repository)
    (archive,) = tmp_path.glob("telescope_lens-*.tar.gz")
    with tarfile.open(archive) as sdist:
        held = {name.partition("/")[2] for name in sdist.getnames()}
    assert _modules(repository) <= held
    assert not {name for name in held if name.startswith(("stages", "schemas"))}


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


def test_every_file_states_the_same_version(repository: Path) -> None:
    version = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (repository / "CITATION.cff").read_text()
    changes = (repository / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changes, re.MULTILINE)
    assert newest is not None
    assert newest[1] in ("Unreleased", version)


def test_imports_keep_to_the_layers(repository: Path) -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
