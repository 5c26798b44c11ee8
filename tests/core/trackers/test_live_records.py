"""Every tracker takes records from a running training, told by a thread that did not start it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from telescope_core.lens import TelescopeLens
from telescope_core.testing import Scenario
from telescope_core.trackers import RunDescription


def test_records_of_a_training_are_read_back(
    kit: Any, lens_of: Callable[..., TelescopeLens]
) -> None:
    training = Scenario(steps=12).start()
    lens = lens_of(training, stride=4)
    about = RunDescription("live", "live", "group", "train", config={"width": 3})
    expected: dict[str, list[tuple[int, float]]] = {}
    with kit.open() as tracker:
        run = tracker.start(about)
        with lens.log_to(run, every=4) as log:
            for step in (4, 8, 12):
                training.run(lens, steps=4)
                assert log.record is not None
                for name, value in log.record.items():
                    if name != "step":
                        expected.setdefault(name, []).append((step, value))
        assert log.close()
        run.summarize({"steps": lens.steps})
        run.finish()
    found = kit.read("live")
    assert found.finished
    for name, column in expected.items():
        assert [step for step, _ in found.history[name]] == [step for step, _ in column]
        for (_, read), (_, told) in zip(found.history[name], column, strict=True):
            assert kit.same(read, kit.kept(told)), name
