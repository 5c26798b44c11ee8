"""Projects to report on."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_SYNTHETIC = Path(__file__).resolve().parent.parent / "publish" / "synthetic.py"


def _synthetic() -> Any:
    spec = importlib.util.spec_from_file_location("report_synthetic", _SYNTHETIC)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


synthetic = _synthetic()


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
