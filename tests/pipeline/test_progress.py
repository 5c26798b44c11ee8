from __future__ import annotations

import io
import logging

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


def test_a_terminal_sees_bars(terminal: io.StringIO) -> None:
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
    assert "width-2: its worker died" in text


def test_elsewhere_a_finished_member_is_a_line(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        caplog.at_level(logging.INFO, logger="telescope_pipeline"),
        progress.watch("train x", total=3, done=1) as watcher,
    ):
        watcher.started("width-2")
        watcher.advanced("width-2", 5, 10)
        watcher.lost("width-2")
        watcher.finished("width-2")
    first, second = caplog.messages
    assert first == "train x: width-2: its worker died, running it again"
    assert second.startswith("train x: width-2 finished in ")
    assert second.endswith("(2/3)")
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
