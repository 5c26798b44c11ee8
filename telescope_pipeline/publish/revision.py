"""Which state of the pipeline produced a result."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

_PIPELINE = ("params.yaml", "dvc.yaml")
# Says where results go, not what they are.
_IGNORED = {"params.yaml": "tracking"}
# Inside a git hook these would name the repository of the hook.
_REDIRECTIONS = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
_SECONDS = 10.0


@dataclass(frozen=True)
class Revision:
    """A state of the pipeline.

    Attributes:
        commit: The git commit that is checked out; None without git.
        digest: Hash of what ``params.yaml`` and ``dvc.yaml`` say if it differs from what they say
            in the commit, else None.
        dirty: Whether any file that git follows differs from the commit; None without git.
    """

    commit: str | None
    digest: str | None
    dirty: bool | None = None

    @property
    def name(self) -> str:
        """A short name: ``<commit>``, ``<commit>-p<digest>`` or ``p<digest>``."""
        parts = [self.commit[:10]] if self.commit else []
        parts += [f"p{self.digest[:8]}"] if self.digest else []
        return "-".join(parts)


def pipeline_revision(root: Path) -> Revision:
    """Find the revision of the pipeline in a folder.

    Comments, layout and the section ``tracking`` of the parameters play no part.

    Returns:
        The commit, and a digest if the parameters or the pipeline are not those of the commit.
        Without git, or without a commit, the digest alone.
    """
    now = _digest([_read(root / name) for name in _PIPELINE])
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return Revision(None, now)
    then = _digest([_git(root, "show", f"HEAD:./{name}") for name in _PIPELINE])
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return Revision(commit.strip(), None if now == then else now, bool(changed))


def _digest(texts: list[str | None]) -> str:
    contents = [_content(*pair) for pair in zip(_PIPELINE, texts, strict=True)]
    text = json.dumps(contents, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _content(name: str, text: str | None) -> Any:
    try:
        content = YAML(typ="safe").load(text) if text is not None else None
    except YAMLError:
        return text
    if isinstance(content, dict):
        content.pop(_IGNORED.get(name), None)
    return content


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _git(root: Path, *arguments: str) -> str | None:
    """Ask git; None if it is not installed, has nothing to say or does not answer."""
    kept = {name: value for name, value in os.environ.items() if name not in _REDIRECTIONS}
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments],
            # Asking must change nothing, not even git's cache of file times.
            env=kept | {"GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, UnicodeDecodeError, subprocess.SubprocessError):
        return None
    return answer.stdout
