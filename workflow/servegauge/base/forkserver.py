"""Processes that start in milliseconds: children of multiprocessing's fork server, which has imported what they need.

A cell starts a load generator, a scraper and a sampler. Each as a fresh interpreter costs half a second of imports
before the window and again after it, when it comes to write; a child of the fork server has them, and nothing else of
what the cells before it did. The fork server ends with the process that first asked for a child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import selectors
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

_TMPDIR_BYTES = 70  # of a TMPDIR that multiprocessing's sockets fit below
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
_context = multiprocessing.get_context("forkserver")
_preloaded: list[str] = []


def prepare(modules: Sequence[str] = ()) -> None:
    """Start the fork server, which imports `modules`, so that a child need not. Returns at once.

    Where it runs already, it keeps the modules that it started with.
    """
    _preloaded[:] = _preloaded or modules
    _context.set_forkserver_preload(_preloaded)
    with _one_thread(), _short_paths():
        util.get_temp_dir()  # made once for this process, where sockets fit in
        forkserver.ensure_running()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """numpy's OpenBLAS starts a thread for each CPU when it is imported, which spin for a while: 0.1 s of each.

    Only the fork server is started with this; a child gets our own environment (see `_run`), and so does a server.
    """
    before = os.environ.get(_BLAS_THREADS)
    os.environ[_BLAS_THREADS] = "1"
    try:
        yield
    finally:
        del os.environ[_BLAS_THREADS]
        if before is not None:
            os.environ[_BLAS_THREADS] = before


@contextlib.contextmanager
def _short_paths() -> Iterator[None]:
    """A socket's path has 108 bytes at most; a TMPDIR of a job may be longer than that alone."""
    before = tempfile.tempdir
    if len(os.fsencode(tempfile.gettempdir())) > _TMPDIR_BYTES:
        tempfile.tempdir = next(
            (folder for folder in ("/tmp", "/dev/shm", "/var/tmp") if os.access(folder, os.W_OK)), before
        )
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """multiprocessing imports the main module again in every child: it takes time, and a script might start over."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class ForkedProcess:
    """A child that runs `main()` of `module` with `argv`; its standard input and output are pipes of ours.

    `log` takes its standard error; without, it is that of the fork server. Its input ends when we do.
    """

    def __init__(self, module: str, *argv: str, log: Path | None = None) -> None:
        prepare()
        theirs_in, ours_in = _context.Pipe(duplex=False)
        ours_out, theirs_out = _context.Pipe(duplex=False)
        self.stdin = os.fdopen(os.dup(ours_in.fileno()), "wb", buffering=0)
        self.stdout = os.fdopen(os.dup(ours_out.fileno()), "rb", buffering=0)
        arguments = (module, argv, theirs_in, theirs_out, str(log) if log else None, dict(os.environ))
        self._process = _context.Process(target=_run, args=arguments, name=module, daemon=True)
        try:
            with _without_main():
                self._process.start()
        except BaseException:
            self.close()
            raise
        finally:
            for end in (theirs_in, ours_in, ours_out, theirs_out):
                end.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def tell(self, order: Any) -> None:
        """Send one line of JSON; that a process has ended is noticed when its output ends."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.write(json.dumps(order).encode() + b"\n")

    def rest_of_output(self, timeout_s: float) -> bytes:
        """What it writes until it closes its output; TimeoutError where it does not in time."""
        output, end = b"", time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            while selector.select(max(0.0, end - time.monotonic())):
                if not (data := os.read(self.stdout.fileno(), 1 << 16)):
                    return output
                output += data
        raise TimeoutError

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status (a signal's number negative), None where it still runs after `timeout_s`."""
        self._process.join(timeout_s)
        return self._process.exitcode

    def kill(self) -> None:
        """End it now, and leave nothing behind."""
        self._process.kill()
        self._process.join()
        self.close()

    def close(self) -> None:
        """Close our ends of its pipes, which asks it to end."""
        self.stdin.close()
        self.stdout.close()


def _run(
    module: str,
    argv: tuple[str, ...],
    stdin: Connection,
    stdout: Connection,
    log: str | None,
    variables: dict[str, str],
) -> None:
    """Run `main()` of `module` in the child, as `python -m module argv` would."""
    os.environ.clear()
    os.environ.update(variables)  # ours of now, not those of when the fork server was started
    os.dup2(stdin.fileno(), 0)
    os.dup2(stdout.fileno(), 1)
    stdin.close()
    stdout.close()
    if log:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 2)
        os.close(handle)
    sys.stdin, sys.stdout = os.fdopen(0, "r", closefd=False), os.fdopen(1, "w", closefd=False)
    sys.argv = [module, *argv]
    with contextlib.suppress(OSError):  # what `ps` and `top` show
        Path("/proc/self/comm").write_text(module.rpartition(".")[2], encoding="ascii")
    sys.exit(importlib.import_module(module).main())
