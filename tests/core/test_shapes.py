"""Shapes in signatures are checked while tests run, and cost the library nothing."""

import subprocess
import sys

import pytest
import torch
from jaxtyping import TypeCheckError

from telescope_core.complexity import degrees_of_freedom, effective_parameters
from telescope_core.probes import LabelDirections, exact_directions


@pytest.mark.parametrize(
    "call",
    [
        lambda directions: effective_parameters(torch.ones(4, 3), directions),
        lambda directions: degrees_of_freedom(
            torch.ones(3, 1, 3).int(), directions.basis, directions
        ),
        lambda directions: directions.rows(torch.tensor([0.5])),
        lambda directions: LabelDirections(directions.basis, torch.ones(2), 0),
    ],
)
def test_other_shapes_and_dtypes_are_refused(call):
    with pytest.raises(TypeCheckError):
        call(exact_directions(3, 1, torch.ones(())))


def test_the_library_does_not_load_what_checks_them():
    code = (
        "import sys, telescope_core.kernels, telescope_core.lens; "
        "assert not {'jaxtyping', 'beartype'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
