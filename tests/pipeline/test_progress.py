from __future__ import annotations

import io
import logging
import re
import time

import pytest
from rich.console import Console

from telescope_pipeline import progress


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would show."""
    shown = io.StringIO()

    def console(**_: object) -> Console:
        return Console(file=shown, force_terminal=True, color_system=None, width=100)

    monkeypatch.setattr(progress, "Console", console)
    return shown


def test_a_terminal_sees_one_bar(terminal: io.StringIO) -> None:
    with progress.watch("train x", total=3, done=1) as watcher:
        watcher.started("width-2")
        watcher.advanced("width-2", 5, 10)
        watcher.advanced("unknown", 5, 10)
        watcher.lost("width-2")
        watcher.started("width-2")
        watcher.finished("width-2")
    text = terminal.getvalue()
    assert "train x" in text
    assert "2/3" in text
    assert re.search(r"2/3 \d:\d\d:\d\d about \d+ s left", text)
    assert "width-2: its worker died" in text


def test_elsewhere_there_is_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while members say nothing."""
    monkeypatch.setattr(progress, "_INTERVAL", 0.05)

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 30
        while len(caplog.messages) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with (
        caplog.at_level(logging.INFO, logger="telescope_pipeline"),
        progress.watch("train x", total=3, done=1) as watcher,
    ):
        wait_for(1)
        watcher.lost("width-2")
        watcher.started("width-2")
        watcher.advanced("width-2", 5, 10)
        wait_for(len(caplog.messages) + 2)
        watcher.finished("width-2")
    said = caplog.messages
    assert said[0] == "train x: 1/3 members done, 0 in the works"
    assert "train x: width-2: its worker died, running it again" in said
    state = r"train x: 1/3 members done, 1 in the works, about \d+ s left"
    assert any(re.fullmatch(state, line) for line in said)
    assert re.fullmatch(r"train x: 1 member in \d+ s", said[-1])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_spinner_shows_on_a_terminal_only(
    terminal: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.spinner("plot x"):
        pass
    assert "plot x" in terminal.getvalue()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (89, "89 s"),
        (91, "2 min"),
        (5000, "83 min"),
        (5400, "1 h 30 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_a_time_is_said_in_units_that_suit_it(seconds: float, said: str) -> None:
    assert progress.duration(seconds) == said


def test_what_is_left_follows_from_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    tally = progress._Tally("train x", total=12, done=2)
    assert tally.left() == ""
    for name in ("a", "b"):
        tally.started(name)
        tally.advanced(name, 1, 4)
    now = 60.0
    # Half a member of the ten in a minute.
    assert tally.left() == "about 19 min left"
    tally.lost("a")
    tally.finished("b")
    assert tally.left() == "about 9 min left"
