"""Importing one data set does not import the others."""

from __future__ import annotations

import subprocess
import sys

import pytest

import telescope_pipeline.study.datasets
import telescope_pipeline.study.networks


def test_names_resolve_and_unknown_ones_do_not() -> None:
    for module in (telescope_pipeline.study.datasets, telescope_pipeline.study.networks):
        for name in module.__all__:
            assert callable(getattr(module, name))
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            _ = module.nothing


def test_a_data_set_is_loaded_when_it_is_asked_for() -> None:
    code = (
        "import sys; from telescope_pipeline.study.datasets import draw_polynomial; "
        "assert 'telescope_pipeline.study.datasets.digits' not in sys.modules; "
        "assert 'sklearn' not in sys.modules; assert 'mnist1d' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
