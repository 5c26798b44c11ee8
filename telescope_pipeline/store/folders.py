"""Where everything is kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_SCRATCH = ".telescope"


@dataclass(frozen=True)
class Layout:
    """The folders of a project.

    Attributes:
        root: The folder of ``params.yaml``.
    """

    root: Path

    @classmethod
    def beside(cls, parameters_path: Path) -> Layout:
        """Return the layout of the project that a parameter file belongs to."""
        return cls(Path(parameters_path).resolve().parent)

    @property
    def scratch(self) -> Path:
        """The scratch folder, which nothing but the train stage knows.

        DVC runs queued experiments in copies below ``.dvc/tmp``, which it deletes afterwards: they
        share the scratch folder of the checkout that they were started from.
        """
        started = Path(os.environ.get("DVC_ROOT", self.root)).resolve()
        for folder in (self.root, *self.root.parents):
            if (folder / ".dvc").is_dir():
                copied = started / ".dvc" / "tmp" in folder.parents
                return (started / self.root.relative_to(folder) if copied else self.root) / _SCRATCH
        return self.root / _SCRATCH

    def data(self, case: str) -> Path:
        """The data sets of a case."""
        return self.root / "data" / case

    def runs(self, case: str) -> Path:
        """The trained members of a case."""
        return self.root / "runs" / case

    def results(self, case: str) -> Path:
        """Tables, claims, plots and the receipt of a case."""
        return self.root / "results" / case

    def timing(self, case: str) -> Path:
        """How long the members of a case took; nothing depends on it."""
        return self.root / "timing" / f"{case}.json"
