"""A program that prints line after line for as long as it is left running."""

from __future__ import annotations

import os
import pty
import subprocess
import tty
from collections.abc import Sequence

from servegauge.base import supervisor


class Repeated:
    """`argv`, started; OSError where it cannot be. Its lines come through a terminal, so that it holds none back."""

    def __init__(self, argv: Sequence[str], errors: bool = False) -> None:
        """`errors`: what it writes to standard error is among the lines."""
        self._rest = b""
        self.handle: int | None = None
        reads, writes = pty.openpty()
        tty.setraw(writes)
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=writes, stderr=writes if errors else subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C"}, preexec_fn=supervisor.die_with_parent,
            )  # fmt: skip
        except OSError:
            os.close(reads)
            raise
        finally:
            os.close(writes)
        self.handle = reads

    def lines(self) -> list[str] | None:
        """Whole lines that have arrived; None when it has ended."""
        if self.handle is None:
            return None
        try:
            data = os.read(self.handle, 65536)
        except OSError:  # EIO: the other end of the terminal is closed
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines] if data else None

    def status(self) -> int:
        """Exit status of a program that has ended."""
        return self._process.wait()

    def close(self) -> None:
        """End it."""
        if self.handle is None:
            return
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self.handle)
        self.handle = None
