"""Keeping the client of a tracker at arm's length: its processes, and keys that it quotes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess


def end_family(process: subprocess.Popen[str]) -> None:
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


def redacted(text: str) -> str:
    """Remove from a message what might be a key or stand before the host of an address.

    Clients quote what was sent to them.
    """
    text = re.sub(r"//[^/@\s]*@", "//***@", text)
    return re.sub(r"[A-Za-z0-9_-]{32,}", "***", text)
