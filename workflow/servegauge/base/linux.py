"""What the load generator and the paced server ask of Linux. None of it needs a privilege."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import struct

from servegauge.base.supervisor import prctl

_PR_SET_TIMERSLACK = 29  # linux/prctl.h
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "ppc64le": 355}  # asm/unistd.h; older C libraries have no name for it
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # struct sched_attr: size, policy, flags, nice, priority, runtime, ...
_SLICE_NS = 100_000  # the shortest that there is

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h of the GNU C library


def run_soon() -> None:
    """Ask for exact timers, and for short time slices instead of long ones.

    A process with shorter slices runs sooner when it wakes while another runs on its CPU, and gets no more of the CPU.
    Linux takes a slice from 6.12 on; what is refused or not known is left as it was.
    """
    with contextlib.suppress(OSError):
        prctl(_PR_SET_TIMERSLACK, 1)  # the default, 50 us, would be added to each sleep
    call = _SCHED_SETATTR.get(platform.machine())
    if call is not None and os.sched_getscheduler(0) == os.SCHED_OTHER:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        asked = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, _SLICE_NS, 0, 0)
        ctypes.CDLL(None).syscall(call, 0, asked, 0)


def hold_many_connections() -> None:
    """Raise the limit of open files as far as this user may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def keep_memory() -> None:
    """Keep freed memory, and ask for much at once, as a process that reads megabytes quickly must.

    Memory that goes back to the kernel after each read comes as new pages with the next one, and each costs a page
    fault: most of the time of reading a long prompt. Other C libraries than GNU's are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_TOP_PAD, 1 << 24)
