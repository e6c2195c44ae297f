"""What is to be done at its time, and the alarm clock of the kernel that wakes the event loop for it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import os
from collections.abc import Callable, Iterator
from time import monotonic_ns

from servegauge.instrument.connection import InFlight
from servegauge.instrument.phases import FAR

Call = Callable[[int, int], None]  # is given when it was due and what time it is, ns

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


class Timetable:
    """Requests and calls by their time (ns of CLOCK_MONOTONIC), those of one time in the order in which they came.

    `fire` gives a request that is due to `issue`, with the time that it is. `arm` sets the alarm for what is due next,
    at `next_ns`.
    """

    def __init__(self, issue: Callable[[InFlight, int], None]) -> None:
        self.next_ns = FAR
        self._issue = issue
        self._entries: list[tuple[int, int, InFlight | Call]] = []
        self._order = 0
        self._alarm = Alarm()
        asyncio.get_running_loop().add_reader(self._alarm.fd, self._rang)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def push(self, when: int, what: InFlight | Call) -> None:
        heapq.heappush(self._entries, (when, self._order, what))
        self._order += 1

    def requests(self) -> Iterator[tuple[int, InFlight]]:
        """Those that wait for their time, with it; no more of them than are asked for, there may be thousands."""
        return ((when, what) for when, _, what in self._entries if isinstance(what, InFlight))

    def keep(self, wanted: Callable[[int, bool], bool]) -> None:
        """Drop what is not `wanted`, which is asked by its time and whether it is a request."""
        self._entries = [one for one in self._entries if wanted(one[0], isinstance(one[2], InFlight))]
        heapq.heapify(self._entries)

    def clear(self) -> None:
        self._entries.clear()

    def fire(self, now: int) -> None:
        """Do everything that is due."""
        while self._entries and self._entries[0][0] <= now:
            when, _, what = heapq.heappop(self._entries)
            if isinstance(what, InFlight):
                self._issue(what, now)
            else:
                what(when, now)
        self.arm()

    def arm(self) -> None:
        due = self._entries[0][0] if self._entries else FAR
        if due != self.next_ns:
            self.next_ns = due
            self._alarm.at(0 if due == FAR else due)

    def rest(self) -> None:
        """Wake nothing until it is armed again."""
        self.next_ns = FAR
        self._alarm.at(0)

    def _rang(self) -> None:
        self._alarm.quiet()
        self.fire(monotonic_ns())

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._alarm.fd)
        self._alarm.close()
