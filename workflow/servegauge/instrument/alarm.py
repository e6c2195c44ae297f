"""An alarm clock of the kernel, exact to microseconds."""

from __future__ import annotations

import contextlib
import ctypes
import os

_CLOCK_MONOTONIC, _TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 1, 0o4000, 0o2000000, 1  # linux/timerfd.h
_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """A timerfd: wakes the event loop at an absolute monotonic time, to microseconds (libuv's timers round to ms)."""

    def __init__(self) -> None:
        self.fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = (ctypes.c_int64 * 4)()  # interval s, ns, value s, ns

    def at(self, when_ns: int) -> None:
        """Ring once at `when_ns`; 0 disarms."""
        self._spec[2], self._spec[3] = divmod(when_ns, 1_000_000_000)
        _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._spec, None)

    def quiet(self) -> None:
        """Take note that it rang."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 8)

    def close(self) -> None:
        os.close(self.fd)
