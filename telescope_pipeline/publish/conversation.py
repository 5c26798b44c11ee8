"""Talking to the process in which a tracker's client runs.

A client may crash, hang or lose its connection, so it runs in a process of its own, watched by the
clock; how the conversation ended is an answer like any other.  An answer is a mapping with the
entry ``event``:

- ``ready``: the client is loaded;
- ``connected``: the server answers, to ``entity``;
- ``held``, ``sent``: something was done for the run ``id``, which takes its time;
- ``kept``: the run ``id`` is where it belongs, at ``place``;
- ``stopped``: nothing more is done, for a ``reason`` in our own words, or None if the client fails;
- ``ended``, ``timeout``: made here, as the last one.

``detail``, beside any of them, is what the client said.  It is logged without what may be a key.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from telescope_core.trackers import redacted

_LOG = logging.getLogger(__name__)
_WORKER = "telescope_pipeline.publish.worker"

Answer = dict[str, Any]

Request = Mapping[str, Any]

Tell = Callable[..., None]
"""How a worker answers: the event, and details that are JSON-able."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a client, in seconds.

    Attributes:
        start: For the client to be loaded.
        run: For one more run to be kept on this machine, besides the time its files need.
        connect: For a server to answer.
        send: For one more run to reach the server, besides the time its files need.
        bytes_per_second: The slowest copying and sending that is waited for.
    """

    start: float = 45.0
    run: float = 30.0
    connect: float = 6.0
    send: float = 10.0
    bytes_per_second: float = 250_000.0


def ask(
    command: str,
    request: Request,
    root: Path,
    limits: Mapping[str, float],
    environment: Callable[[str], Mapping[str, str]] = lambda scratch: os.environ,
) -> list[Answer]:
    """Run a command of the worker and collect its answers.

    Args:
        command: One of the worker's.
        request: What it takes, JSON-able.
        root: The folder it works in.
        limits: The longest wait after each kind of answer, ``""`` standing for the start.
        environment: Makes its environment variables from a folder that is removed afterwards.

    Returns:
        The answers, at least one.

    Raises:
        OSError: If no process can be started.
        TypeError: If the request is not JSON-able.
    """
    text = json.dumps(request)
    with tempfile.TemporaryDirectory(prefix="ts-") as scratch:
        answers = list(_converse(command, text, root, limits, environment(scratch)))
    for answer in answers:
        if detail := answer.get("detail"):
            _LOG.warning("publish: %s", redacted(detail))
    return answers


def stopped(who: str, answers: Sequence[Answer]) -> str:
    """Say why a conversation ended early, without anything that differs from time to time."""
    for answer in answers:
        if answer["event"] == "stopped":
            return str(answer["reason"] or f"{who} failed")
    last = answers[-1]
    if last["event"] == "timeout":
        return f"{who} stopped answering and was ended"
    if last["code"] < 0:
        return f"{who} was ended by signal {signal.Signals(-last['code']).name}"
    return f"{who} ended before its work was done"


def unable(who: str, error: Exception) -> str:
    """Log why a client could not even be talked to, and say so."""
    _LOG.warning("publish: %s", redacted(f"{type(error).__name__}: {error}"))
    return f"{who} could not be run"


def _converse(
    command: str,
    request: str,
    root: Path,
    limits: Mapping[str, float],
    environment: Mapping[str, str],
) -> Iterator[Answer]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", _WORKER, command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=root,
        env=dict(environment),
        text=True,
        encoding="utf-8",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    # A worker that never reads must not block us either.
    threading.Thread(target=_send, args=(process.stdin, request), daemon=True).start()
    threading.Thread(target=_receive, args=(process.stdout, lines), daemon=True).start()
    limit = limits[""]
    try:
        while (line := lines.get(timeout=limit)) is not None:
            answer = json.loads(line)
            limit = limits.get(answer["event"], limit)
            yield answer
        yield {"event": "ended", "code": process.wait(timeout=limit)}
    except (queue.Empty, subprocess.TimeoutExpired):
        yield {"event": "timeout"}
    finally:
        _end_family(process)


def _send(stream: IO[str], request: str) -> None:
    try:
        with stream:
            stream.write(request)
    except OSError:
        # The worker is gone; how it ended is reported elsewhere.
        return


def _receive(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _end_family(process: subprocess.Popen[str]) -> None:
    """End a process and what it started; services of clients have sessions of their own."""
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        family = []
    process.kill()
    for child in family:
        try:
            child.kill()
        except psutil.Error:
            continue
    process.wait()
