"""Where everything is kept."""

from __future__ import annotations

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
        """The scratch folder, which nothing but the train stage knows."""
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
