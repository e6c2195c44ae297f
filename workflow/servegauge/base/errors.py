"""Errors that a person can act on, and the one place that prints them."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable

from servegauge.base.text import visible


class UserError(Exception):
    """Something the user can correct. Its text says where, what was found, what is allowed and what to do next."""


def did_you_mean(found: object, allowed: Iterable[object]) -> str:
    """` Did you mean 'x'?` for the allowed name nearest to `found`, or nothing."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(found), names, 1) or [name for name in names if name.startswith(f"{found}_")]
    return f" Did you mean {near[0]!r}?" if near else ""


# What a disk, a quota or a mode refuses: a person makes room or asks for the right; it is no fault of the program.
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
MISPLACED = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR}  # a file where a folder has to be, or a folder where a file


def run_and_exit(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave: UserError becomes one message and exit status 2, Ctrl-C becomes 130.

    So does an OSError by which the system refuses to read or write a file, or finds another kind of it: its place and
    the system's words.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno in MISPLACED and error.filename:
            words = f"{visible(str(error.filename))}: {os.strerror(error.errno or 0)}"
            print(f"error: {words}. Give another path, or move what is in the way.", file=sys.stderr)
            sys.exit(2)
        if error.errno not in REFUSED:
            raise
        where = error.filename or "a file"
        print(
            f"error: {visible(str(where))}: {os.strerror(error.errno)}. Nothing half-written stays, and what was "
            "measured is safe; make room, or correct the rights, and give the same command again.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
