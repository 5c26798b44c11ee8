"""How a command ends that is told to stop, by Ctrl-C or by whoever started it."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

# The shell's convention is 128 and the number of the signal.
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "told to terminate"}


class Stopped(BaseException):
    """A signal asks the command to end.

    Not a ``KeyboardInterrupt``, which code of the user's could raise as well.

    Args:
        number: The signal.

    Attributes:
        code: The exit code of the command.
    """

    def __init__(self, number: int):
        super().__init__(f"{_WORDS[signal.Signals(number)]}: run again to go on")
        self.code = 128 + number


def listen() -> None:
    """Raise :class:`Stopped` in the main thread on SIGINT and SIGTERM, unless they are ignored."""
    for number in _WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> NoReturn:
    raise Stopped(number)
