"""Talking to the process in which the client of Weights & Biases runs.

The client may crash, hang or lose its connection, so it runs in a process of its own, watched by
the clock; how the conversation ended is an answer like any other.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from telescope_core.trackers._containment import end_family

# What the client may read of the user's settings to reach the server; offline, nothing.
CREDENTIALS = (
    "WANDB_API_KEY",
    "WANDB_BASE_URL",
    "WANDB_APP_URL",
    "WANDB_CONFIG_DIR",
    "WANDB_CREDENTIALS_FILE",
    "WANDB_ENTITY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_INSECURE_DISABLE_SSL",
)

_WORKER = "telescope_core.trackers._wandb_worker"


def ending(answers: Sequence[dict[str, Any]]) -> str:
    """Say how the conversation ended, without anything that differs from time to time."""
    last = answers[-1]
    if last["event"] == "timeout":
        return "stopped answering and was ended"
    if last["event"] == "ended" and last["code"] < 0:
        return f"was ended by signal {signal.Signals(-last['code']).name}"
    return "ended before its work was done"


def converse(
    command: str,
    request: Mapping[str, Any],
    environment: Mapping[str, str],
    root: Path,
    limits: Mapping[str, float],
) -> Iterator[dict[str, Any]]:
    """Run a command of the worker and pass on its answers.

    ``limits`` is the longest wait after each kind of answer, ``""`` standing for the start.  The
    last answer is made here: ``ended`` with the exit code, or ``timeout``.
    """
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
        while True:
            try:
                line = lines.get(timeout=limit)
            except queue.Empty:
                yield {"event": "timeout"}
                return
            if line is None:
                break
            answer = json.loads(line)
            limit = limits.get(answer["event"], limit)
            yield answer
        try:
            yield {"event": "ended", "code": process.wait(timeout=limit)}
        except subprocess.TimeoutExpired:
            yield {"event": "timeout"}
    finally:
        end_family(process)


def _send(stream: IO[str], request: Mapping[str, Any]) -> None:
    try:
        with stream:
            json.dump(request, stream)
    except OSError:
        # The worker is gone; how it ended is reported elsewhere.
        return


def _receive(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def environment_of(scratch: str, keep: Sequence[str]) -> dict[str, str]:
    """The environment of the worker: none of the user's W&B settings but those to keep."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WANDB_") or name in keep
    }
    return kept | {
        "WANDB_CACHE_DIR": scratch,
        "WANDB_DATA_DIR": scratch,
        "WANDB_DIR": scratch,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_SILENT": "true",
        "TMPDIR": scratch,
        "PYTHONWARNINGS": "ignore",
    }
