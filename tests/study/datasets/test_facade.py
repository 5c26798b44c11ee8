"""Importing one data set does not import the others."""

from __future__ import annotations

import subprocess
import sys


def test_a_data_set_is_loaded_when_it_is_asked_for() -> None:
    code = (
        "import sys, telescope_pipeline.study.datasets.polynomial; "
        "assert 'telescope_pipeline.study.datasets.digits' not in sys.modules; "
        "assert not {'sklearn', 'mnist1d', 'pandas', 'pooch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
