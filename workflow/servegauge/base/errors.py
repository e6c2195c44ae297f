"""Errors that a person can act on, and the one place that prints them."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any, TextIO, cast

from servegauge.base.text import visible


class UserError(Exception):
    """Something the user can correct. Its text says where, what was found, what is allowed and what to do next."""


def did_you_mean(found: object, allowed: Iterable[object]) -> str:
    """` Did you mean 'x'?` for the allowed name nearest to `found`, or nothing."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(found), names, 1) or [name for name in names if name.startswith(f"{found}_")]
    return f" Did you mean {near[0]!r}?" if near else ""


class Shown:
    """Standard output that no terminal obeys: names and words of others, in what a command prints, are escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


# What a disk, a quota or a mode refuses: a person makes room or asks for the right; it is no fault of the program.
REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
# A path that cannot be: a file where a folder has to be, or the other way round, or a name that nothing can have
MISPLACED = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP}


def ask_child(module: str, *arguments: str, failed: str) -> str:
    """What `python -m module arguments` prints, for a process that has to stay small itself.

    UserError with the child's own message, or with `failed` where it died without one.
    """
    argv = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(done.stderr.strip().removeprefix("error: ") or failed)
    return done.stdout


def run_and_exit(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave: UserError becomes one message and exit status 2, Ctrl-C becomes 130.

    So does an OSError by which the system refuses to read or write a file, or finds another kind of it: its place and
    the system's words. Where the reader of the output has ended (`| head`), the status is that of SIGPIPE.
    """
    try:
        with contextlib.redirect_stdout(cast(TextIO, Shown(sys.stdout))):
            status = main() or 0
        sys.stdout.flush()
        sys.exit(status)
    except UserError as error:
        _leave(str(error))
    except OSError as error:
        if error.errno == errno.EPIPE and _reader_has_ended():
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes what is left
            sys.exit(128 + signal.SIGPIPE)
        place, words = visible(str(error.filename or "a file")), os.strerror(error.errno or 0)
        if error.errno in MISPLACED and error.filename:
            _leave(f"{place}: {words}. Give another path, or move what is in the way.")
        if error.errno not in REFUSED:
            raise
        _leave(
            f"{place}: {words}. Nothing half-written stays, and what was measured is safe; make room, or correct the "
            "rights, and give the same command again."
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _reader_has_ended() -> bool:
    """Whether standard output is a pipe that nothing reads any more."""
    poll = select.poll()
    poll.register(1, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _leave(message: str) -> None:
    print(f"error: {visible(message)}", file=sys.stderr)
    sys.exit(2)
