"""Functions for worker processes, which must be able to import them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from telescope_core.errors import NonFiniteError

Progress = Callable[[int, int], None]


def square(number: int, progress: Progress) -> int:
    """Return the square, having reported three steps."""
    for step in range(1, 4):
        progress(step, 3)
    return number * number


def environment(_: object, progress: Progress) -> dict[str, str | None]:
    """Return the environment that limits threads."""
    return {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def fail(message: str, progress: Progress) -> None:
    """Raise an error of this project."""
    raise NonFiniteError(message)


def crash(message: str, progress: Progress) -> None:
    """Raise an error nobody planned for."""
    raise KeyError(message)


def die_once(marker: Path, progress: Progress) -> str:
    """Kill this process on the first call."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def die(_: object, progress: Progress) -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_long(folder: Path, progress: Progress) -> None:
    """Leave the process id behind and wait."""
    (folder / f"{os.getpid()}.pid").touch()
    time.sleep(600)


def unsendable(_: object, progress: Progress) -> object:
    """Return something that cannot be sent to another process."""
    return lambda: None


class UntoldError(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        """End the process instead."""
        sys.exit(0)


def leave(how: str, progress: Progress) -> None:
    """End the process, or raise an error that is hard to pass on."""
    errors = {
        "exit": SystemExit(0),
        "interrupt": KeyboardInterrupt(),
        "untold": UntoldError(),
        "huge": NonFiniteError("x" * 2_000_000),
        "huge crash": KeyError("x" * 2_000_000),
        "secret": KeyError(os.environ.get("OWN_API_KEY")),
    }
    raise errors[how]
