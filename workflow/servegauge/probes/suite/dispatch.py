"""What the operating system and the hypervisor charge for small things: the CPU side of a short prompt.

A token that takes 5 ms of GPU time still needs wake-ups, timers, system calls and kernel launches, and those are what
virtualization changes. CPU cases are here; cases of a GPU's queue are in `cuda_dispatch.py`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Wrong, pin
from servegauge.probes.harness.stats import Effort, repeat, timed
from servegauge.probes.suite.cuda_dispatch import cuda_cases

FUTEX = {"x86_64": 202, "aarch64": 98}  # system call numbers, from the kernel's tables
FUTEX_WAIT, FUTEX_WAKE = 0, 1
MADV_NOHUGEPAGE = 15
PAGE = mmap.PAGESIZE
ROUNDS = 20  # round trips in one sample of a ping-pong


class Dispatch(Probe):
    name = "dispatch"
    title = "Wake-ups, timers, launches"
    units: ClassVar = {"time_us": "us"}
    primary = ("time_us",)
    one_thread = True
    measures = "process wake-up, futex, context switch, timer, system call and page fault cost; kernel launch on a GPU"

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return "the CPU side of each step, most of all at short prompts and small batches (TTFT, TPOT)"

    def cases(self, context: Context) -> Iterator[Case]:
        effort = context.effort
        server, load = context.server_cpus[0], context.load_cpus[0]

        def case(operation: str, measure: Callable[[], Measured], **more: object) -> Case:
            return Case({"operation": operation, "device": "cpu", **more}, "time_us", measure)

        yield case("python call", partial(_call, lambda i: None, effort))
        yield case("system call", partial(_call, lambda i: os.getppid(), effort))
        yield case("clock read", partial(_call, lambda i: time.clock_gettime_ns(time.CLOCK_MONOTONIC), effort))
        # The study's own placement: what a request pays to cross from the load generator's CPU to the server's.
        placement = "same cpu" if server == load else "server and load cpus"
        yield case("pipe wake-up", partial(_ping, _pipe, (load, server), effort), placement=placement)
        yield case("futex wake-up", partial(_ping, _futex, (load, server), effort), placement=placement)
        if server != load:
            yield case("context switch", partial(_ping, _pipe, (server, server), effort), placement="same cpu")
        for wait_s in context.sizes((50e-6,), (50e-6, 1e-3), (50e-6, 1e-3, 10e-3)):
            yield case(f"timer of {wait_s * 1e6:g} us", partial(_timer, wait_s, effort))
        yield case("process start", partial(_start, effort))
        yield case("page fault", partial(_fault, context.sizes(1 << 20, 16 << 20, 64 << 20), effort))
        yield from cuda_cases(context)


def _call(call: Callable[[int], object], effort: Effort) -> Measured:
    """Time of one call from Python; subtract the row `python call` for the kernel's part."""
    return Measured.microseconds(timed(call, effort), {}, None)


def _timer(wait_s: float, effort: Effort) -> Measured:
    """How much later than asked a sleeping thread runs again."""

    def late() -> float:
        begin = time.perf_counter()
        time.sleep(wait_s)
        return max(time.perf_counter() - begin - wait_s, 1e-9)

    return Measured.microseconds(repeat(late, effort), {}, None)


def _start(effort: Effort) -> Measured:
    """Start a process that ends at once, and wait for it."""

    def start() -> float:
        begin = time.perf_counter()
        child = os.posix_spawn("/bin/true", ["true"], {})
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise Wrong(f"/bin/true ended with status {status}")
        return time.perf_counter() - begin

    return Measured.microseconds(repeat(start, effort), {}, None)


def _fault(size: int, effort: Effort) -> Measured:
    """Time per first touch of a 4 KiB page: two levels of page tables where a hypervisor is under the kernel."""

    def touch() -> float:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            memory.madvise(MADV_NOHUGEPAGE)
            pages = np.frombuffer(memory, dtype=np.uint8)[::PAGE]
            begin = time.perf_counter()
            pages[:] = 1
            seconds = (time.perf_counter() - begin) / len(pages)
            del pages  # or the mapping could not be closed
            return seconds

    return Measured.microseconds(repeat(touch, effort), {}, None)


# --- ping-pong between two processes -----------------------------------------------------------------------------

Side = tuple[Callable[[], None], Callable[[], None]]  # (send, receive)


def _pipe() -> tuple[Side, Side, Callable[[], None]]:
    """Two pipes; a closed pipe ends the other side."""
    (read_a, write_a), (read_b, write_b) = os.pipe(), os.pipe()

    def receive(handle: int) -> None:
        if os.read(handle, 1) == b"":
            raise EOFError

    def close() -> None:
        for handle in (read_a, write_a, read_b, write_b):
            os.close(handle)

    here = (lambda: os.write(write_a, b"x"), lambda: receive(read_b))
    there = (lambda: os.write(write_b, b"x"), lambda: receive(read_a))
    return here, there, close  # type: ignore[return-value]


def _futex() -> tuple[Side, Side, Callable[[], None]]:
    """Two words in shared memory, waited for with futex(2) itself: no library's lock in between."""
    number = FUTEX.get(platform.machine())
    if number is None:
        raise Skip(f"the number of futex(2) is known on {', '.join(FUTEX)}, this is {platform.machine()}")
    memory = mmap.mmap(-1, PAGE)
    words = [ctypes.c_uint32.from_buffer(memory, offset) for offset in (0, 128)]
    system = ctypes.CDLL(None, use_errno=True).syscall

    def send(word: ctypes.c_uint32) -> None:
        word.value = 1
        system(number, ctypes.byref(word), FUTEX_WAKE, 1, None, None, 0)

    def receive(word: ctypes.c_uint32) -> None:
        while word.value == 0:  # the kernel sleeps only if the word is still 0
            system(number, ctypes.byref(word), FUTEX_WAIT, 0, None, None, 0)
        word.value = 0

    here = (lambda: send(words[0]), lambda: receive(words[1]))
    there = (lambda: send(words[1]), lambda: receive(words[0]))
    return here, there, words.clear


def _ping(channel: Callable, cpus: tuple[int, int], effort: Effort) -> Measured:
    """Half a round trip between this process on `cpus[0]` and a child on `cpus[1]`: one wake-up each way."""
    before = os.sched_getaffinity(0)
    (send, receive), (child_send, child_receive), close = channel()
    pin([cpus[1]])  # before the fork, so that a CPU that does not exist is reported here
    child = os.fork()
    if child == 0:
        _echo(child_send, child_receive)
    try:
        pin([cpus[0]])

        def trip() -> float:
            begin = time.perf_counter()
            for _ in range(ROUNDS):
                send()
                receive()
            return (time.perf_counter() - begin) / ROUNDS / 2

        return Measured.microseconds(repeat(trip, effort), {}, None)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        close()
        os.sched_setaffinity(0, before)


def _echo(send: Callable[[], None], receive: Callable[[], None]) -> None:
    """The child's whole life: answer until it is killed. It never returns into the parent's code."""
    try:
        while os.getppid() != 1:
            receive()
            send()
    finally:
        os._exit(0)
