"""Waiting for a lock that another process holds, in steps in which the caller can act."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from typing import IO, Any


class NoLocks(OSError):
    """The file system of the file knows no locks."""


def wait_for_lock(file: IO[Any], wait: Callable[[bool], None]) -> None:
    """Take the exclusive `flock` of an open file, which ends when it is closed; NoLocks where there are none.

    While another process has it, `wait` is called before each new attempt, with True the first time: it pauses, and
    ends the waiting by raising.
    """
    first = True
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        except OSError as error:
            raise NoLocks(error.errno, error.strerror) from error
        wait(first)
        first = False
