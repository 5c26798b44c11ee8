from __future__ import annotations

import math

import numpy as np
import pytest

from telescope_core.errors import NonFiniteError
from telescope_pipeline.store.plain import plain


def test_numbers_become_plain_python() -> None:
    value = {"a": np.float32(0.5), 3: [np.int64(2), (True, np.bool_(False))], "n": None, "t": "x"}
    result = plain(value, "metrics")
    assert result == {"a": 0.5, "3": [2, [True, False]], "n": None, "t": "x"}
    assert type(result["a"]) is float
    assert type(result["3"][0]) is int
    assert type(result["3"][1][1]) is bool


@pytest.mark.parametrize("bad", [math.nan, -math.inf, np.float64("nan")])
def test_what_is_not_finite_is_named(bad: float) -> None:
    with pytest.raises(NonFiniteError, match=r"metrics\.a\[1\] is"):
        plain({"a": [1.0, bad]}, "metrics")
