"""What DVC would run, asked in this process, where loading it is paid once."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path


def stages_to_run(root: Path) -> set[str]:
    """Name the stages that ``dvc status`` finds changed in a repository."""
    from dvc.repo import Repo

    with chdir(root), Repo(str(root)) as repo:
        return set(repo.status())
