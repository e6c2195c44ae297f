"""Of the launches of a run that start or end together, a few are at work at once; the others wait before they import.

A process that submits holds 35 MB with its children, one that waits here 3 MB. A turn ends with its process, when that
becomes a shell (`waiter`), and where it begins to wait for anything. Nothing heavy may be imported here.
"""

from __future__ import annotations

import os
import socket
import sys
import time

AT_ONCE = 8
PATIENCE_S = 600.0  # then it goes on all the same: this saves memory, nothing depends on it

_turn: socket.socket | None = None


def take() -> None:
    """Wait for a turn. To be called once, before what the process needs is imported."""
    global _turn
    end = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < end:
            for number in range(AT_ONCE):
                mine = socket.socket(socket.AF_UNIX)
                try:
                    mine.bind(f"\0servegauge-turn-{os.getuid()}-{number}")  # an abstract name, free when we end
                except OSError:
                    mine.close()
                else:
                    _turn = mine
                    return
            time.sleep(0.1 + os.getpid() % 10 / 50)
    except KeyboardInterrupt:
        sys.exit(130)  # nothing was submitted


def release() -> None:
    """Somebody else's turn, if this process has one."""
    global _turn
    if _turn is not None:
        _turn.close()
        _turn = None
