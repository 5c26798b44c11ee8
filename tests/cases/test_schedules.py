"""Records are log-spaced, cover the whole run and favour the ends of blocks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telescope_core.errors import ConfigurationError
from telescope_pipeline.study.training.schedules import log_spaced_steps


@settings(deadline=None)
@given(total=st.integers(1, 30_000), count=st.integers(1, 90), stride=st.integers(1, 64))
def test_covers_the_run_in_order_with_at_most_the_records_asked(
    total: int, count: int, stride: int
) -> None:
    steps = log_spaced_steps(total, count, stride=stride)
    assert steps[0] == 0
    assert steps[-1] == total
    assert steps == sorted(set(steps))
    if count < total:
        assert len(steps) <= count + 1
        assert all(step <= stride or step % stride == 0 or step == total for step in steps)
    else:
        assert steps == list(range(total + 1))


def test_gives_as_many_records_as_asked_when_there_is_room() -> None:
    assert len(log_spaced_steps(24_000, 80, stride=16)) == 81
    assert len(log_spaced_steps(4000, 12, stride=10)) == 13


def test_every_decade_gets_its_share() -> None:
    steps = log_spaced_steps(10_000, 40)
    for low in (10, 100, 1000):
        inside = [step for step in steps if low <= step < 10 * low]
        assert 9 <= len(inside) <= 13


@pytest.mark.parametrize("arguments", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_refuses_empty_arguments(arguments: tuple[int, int, int]) -> None:
    total, count, stride = arguments
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        log_spaced_steps(total, count, stride=stride)
