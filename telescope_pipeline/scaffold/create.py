"""Writing the project and making its repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from telescope_core.errors import ConfigurationError, ExecutionError
from telescope_pipeline.scaffold import own_wiring
from telescope_pipeline.store import files

# Under names that neither git nor Python would act upon where they lie.
_FILES = {
    "params.yaml": "params.yaml.txt",
    "my_model/__init__.py": "package.txt",
    "my_model/network.py": "network.txt",
    "my_data.py": "digits.txt",
    "README.md": "readme.txt",
    ".gitignore": "gitignore.txt",
    ".dvcignore": "dvcignore.txt",
}
_PIPELINE = "dvc.yaml"
_CONFIG = "[core]\n    analytics = false\n    check_update = false\n    autostage = false\n"
# Inside a git hook these would name the repository of the hook.
_REDIRECTIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
_SECONDS = 60.0


def create(folder: Path, *, scm: bool = True) -> list[Path]:
    """Write a project that ``dvc repro`` runs as it is.

    Args:
        folder: Where to put it; made if it is missing.
        scm: Whether to make a git and a DVC repository if the folder lies in none.

    Returns:
        The files that were written, relative to ``folder``.

    Raises:
        ConfigurationError: A file that would be written is there already.
        ArtifactError: The folder cannot be written.
        ExecutionError: git or DVC is missing or fails; the files are written.
    """
    requirement = f"telescope-lens[pipeline,wandb]=={version('telescope-lens')}\n"
    texts = {
        path: (own_wiring.TEMPLATES / name).read_text("utf-8") for path, name in _FILES.items()
    }
    texts[own_wiring.REQUIREMENTS] = requirement
    _refuse_overwriting(folder, [*texts, _PIPELINE])
    for path, text in texts.items():
        files.write_text(folder / path, text)
    files.write_text(folder / _PIPELINE, own_wiring.written(folder))
    if scm:
        _make_repositories(folder.resolve())
    return [Path(path) for path in [*texts, _PIPELINE]]


def _refuse_overwriting(folder: Path, paths: list[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is a file; expected a folder, or a name for a new one")
    there = [path for path in paths if os.path.lexists(folder / path)]
    blocked = [str(Path(p).parent) for p in paths if "/" in p and (folder / p).parent.is_file()]
    if there or blocked:
        names = ", ".join([*there, *dict.fromkeys(blocked)])
        raise ConfigurationError(
            f"{folder} already has {names}, which would be overwritten; expected a folder without "
            "them: name another one, or move them away"
        )


def _make_repositories(root: Path) -> None:
    if shutil.which("git") is None:
        raise ExecutionError(
            "git is not installed, so no repositories were made; install it, or run "
            f"`dvc init --no-scm` in {root}"
        )
    inside = _run(["git", "rev-parse", "--show-toplevel"], root, check=False).strip()
    if not inside:
        _run(["git", "init", "-q"], root)
    if any((above / ".dvc").is_dir() for above in (root, *root.parents)):
        return
    below = bool(inside) and Path(inside).resolve() != root
    subdir = ["--subdir"] if below else []
    _run([sys.executable, "-m", "dvc", "init", "-q", *subdir], root)
    config = root / ".dvc" / "config"
    files.write_text(config, files.read_bytes(config).decode() + _CONFIG)


def _run(command: list[str], root: Path, *, check: bool = True) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in _REDIRECTIONS}
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=kept,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ExecutionError(f"{' '.join(command)} failed in {root}: {error}") from None
    if done.returncode and check:
        raise ExecutionError(
            f"{' '.join(command)} failed in {root}: {done.stderr.strip()}; the files are written, "
            "make the repositories by hand"
        )
    return "" if done.returncode else done.stdout
