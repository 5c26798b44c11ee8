"""Projects to report on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import synthetic


@pytest.fixture(scope="session")
def build_project() -> Callable[[Path], Any]:
    """Builds a project whose cases are published nowhere, so that they have receipts."""

    def build(root: Path) -> Any:
        from telescope_pipeline.stages.publish import run

        project = synthetic.build(root)
        project.configure(mode="disabled")
        for case in ("wide", "plain"):
            run(case, project.parameters_path)
        return project

    return build


@pytest.fixture
def project(tmp_path: Path, build_project: Callable[[Path], Any]) -> Any:
    """A project with results and receipts."""
    return build_project(tmp_path / "project")
