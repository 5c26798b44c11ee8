"""Alerts come once per crossing, and not from noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from telescope_core.errors import ConfigurationError
from telescope_core.live.alerts import (
    ApproximationFails,
    DegreesOfFreedomPass,
    PartingWays,
    Watch,
    output_spread,
)

POSITIVE = st.floats(1e-3, 1e3)
STREAKS = st.integers(1, 4)


def no_spread(name):
    raise AssertionError("an absolute bound needs no spread")


def parameters(train, test, train_error=0.0, test_error=0.0, step=10):
    return {
        "step": step,
        "train/effective_parameters": train,
        "train/effective_parameters_stderr": train_error,
        "test/effective_parameters": test,
        "test/effective_parameters_stderr": test_error,
    }


def alerts_of(rule, records, spread=no_spread):
    watch = Watch(rule)
    return [i for i, record in enumerate(records) if watch.observe(record, spread) is not None]


@given(conditions=st.lists(st.booleans(), max_size=40), records=STREAKS)
def test_one_alert_per_crossing(conditions, records):
    """A run-length rule, written the other way round: by looking back at the whole past."""
    rule = ApproximationFails(bound=1.0, records=records)
    errors = [{"step": i, "test/approximation_error": 2.0 * c} for i, c in enumerate(conditions)]

    expected, state = [], False
    for i in range(len(conditions)):
        recent = conditions[max(0, i + 1 - records) : i + 1]
        if len(recent) == records and all(c != state for c in recent):
            state = not state
            if state:
                expected.append(i)
    assert alerts_of(rule, errors) == expected


@given(p=POSITIVE, ratio=st.floats(1.01, 50), scale=POSITIVE, share=st.floats(0, 0.5))
def test_parting_does_not_depend_on_the_scale(p, ratio, scale, share):
    rule = PartingWays(records=1)

    def met(unit):
        errors = unit * p * share
        return rule.is_met(parameters(unit * p * ratio, unit * p, errors, errors), no_spread)

    if abs(ratio - rule.factor) > 1e-6 and abs(ratio - 1 - 3 * share * math.sqrt(2)) > 1e-6:
        assert met(1.0) == met(scale)
        assert met(1.0) == (ratio > 1.5 and ratio - 1 > 3 * share * math.sqrt(2))


@given(p=POSITIVE, q=POSITIVE, error=POSITIVE)
def test_parting_is_symmetric(p, q, error):
    rule = PartingWays(records=1)
    there = rule.is_met(parameters(p, q, error, 0.0), no_spread)
    assert there == rule.is_met(parameters(q, p, 0.0, error), no_spread)


@given(p=POSITIVE, ratio=st.floats(1.5, 1e3), deviations=st.floats(0, 3))
def test_what_the_standard_errors_explain_is_no_parting(p, ratio, deviations):
    gap = p * ratio - p
    # The gap is at most three combined standard errors.
    error = gap / 3 * (1 + 1e-9) if deviations == 3 else gap / max(deviations, 1e-3)
    assert not PartingWays().is_met(parameters(p * ratio, p, error, 0.0), no_spread)
    assert PartingWays().is_met(parameters(p * ratio * 1.001, p, gap / 3.1, 0.0), no_spread)


def test_parting_at_and_below_zero():
    rule = PartingWays(records=1)
    assert not rule.is_met(parameters(0.0, 0.0), no_spread)
    assert rule.is_met(parameters(1.0, -0.1, 0.1, 0.1), no_spread)
    assert not rule.is_met(parameters(-1.0, -2.0), no_spread)
    for unknown in (parameters(9.0, 1.0, math.nan), parameters(math.nan, 1.0)):
        assert not rule.is_met(unknown, no_spread)


def test_parting_has_to_last():
    apart, together = parameters(9.0, 1.0), parameters(1.0, 1.0)
    rule = PartingWays(records=3)
    assert alerts_of(rule, [apart] * 6) == [2]
    assert alerts_of(rule, [apart, apart, together] * 4) == []
    # One record together does not end it; three do, and then it may begin again.
    assert alerts_of(rule, [apart] * 3 + [together] + [apart] * 5) == [2]
    assert alerts_of(rule, [apart] * 3 + [together] * 3 + [apart] * 3) == [2, 8]


def test_the_text_of_an_alert():
    alert = Watch(PartingWays(records=1)).observe(parameters(8.25, 2.5, step=40), no_spread)
    assert alert is not None
    assert alert.step == 40
    assert alert.level == "WARN"
    assert "8.25" in alert.text
    assert "2.5" in alert.text
    assert "more complex on train" in alert.text
    assert len(alert.title) < 64
    rule = PartingWays("a" * 60, "b" * 60, records=1)
    record = {
        f"{name}/effective_parameters{end}": value
        for name, p in (("a" * 60, 1.0), ("b" * 60, 5.0))
        for end, value in (("", p), ("_stderr", 0.0))
    }
    assert len(rule.alert(record | {"step": 1}, no_spread).title) < 64


@given(error=st.floats(0, 10), spread=st.floats(0, 10), relative=POSITIVE)
def test_a_relative_bound_is_a_share_of_the_spread(error, spread, relative):
    record = {"step": 1, "test/approximation_error": error}
    rule = ApproximationFails(relative=relative)
    assert rule.is_met(record, lambda name: spread) == (error > relative * spread)


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_an_error_that_is_not_finite_passes_any_bound(error):
    record = {"step": 1, "test/approximation_error": error}
    assert ApproximationFails(bound=1e300).is_met(record, no_spread)


def test_the_spread_is_the_mean_deviation_over_rows():
    outputs = torch.tensor([[1.0, 10.0], [3.0, 10.0], [5.0, 16.0]])
    expected = (2 + 0 + 2 + 2 + 2 + 4) / 6
    assert output_spread(outputs) == pytest.approx(expected)
    assert output_spread(outputs + 7) == pytest.approx(expected)
    assert output_spread(torch.full((4, 2), 3.0)) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PartingWays(factor=1.0), "factor must be a number above 1, got 1.0"),
        (lambda: PartingWays(factor=math.nan), "factor"),
        (lambda: PartingWays(deviations=-1.0), "deviations"),
        (lambda: PartingWays(records=0), "records must be an integer of at least 1"),
        (lambda: PartingWays("train", "train"), "both 'train'"),
        (lambda: ApproximationFails(bound=0.0), "bound must be a positive number"),
        (lambda: ApproximationFails(relative=math.inf), "relative"),
        (lambda: ApproximationFails(bound=1.0, relative=1.0), "give one"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_degrees_of_freedom_pass_a_bound_surely_or_not_at_all():
    rule = DegreesOfFreedomPass(50.0, records=1)

    def record(value, error=0.0):
        name = "train/degrees_of_freedom"
        return {"step": 20, name: value, f"{name}_stderr": error}

    assert not rule.is_met(record(50.0), no_spread)
    assert not rule.is_met(record(59.0, 3.0), no_spread)
    assert not rule.is_met(record(59.0, math.nan), no_spread)
    assert rule.is_met(record(59.1, 3.0), no_spread)
    assert "59.1 degrees of freedom" in rule.alert(record(59.1, 3.0), no_spread).text
    with pytest.raises(ConfigurationError, match="bound must be a positive number"):
        DegreesOfFreedomPass(0.0)


@pytest.mark.parametrize(
    ("rule", "response", "message"),
    [
        (PartingWays(), "softmax", "use DegreesOfFreedomPass"),
        (PartingWays(), None, "no count"),
        (DegreesOfFreedomPass(3.0), None, "the loss does not tell"),
    ],
)
def test_rules_that_do_not_suit_the_outputs_are_refused(rule, response, message):
    with pytest.raises(ConfigurationError, match=message):
        rule.check_fits(("train", "test"), has_smoother=True, response=response)
    rule.check_fits(("train", "test"), has_smoother=True, response="identity")
    with pytest.raises(ConfigurationError, match="probes=None"):
        rule.check_fits(("train", "test"), has_smoother=False, response=None)
