"""Times on a GPU that are the GPU's own: warmed up, queued before the GPU begins, with the clock of each sample.

A call of a small product costs Python and the driver 10 to 60 us, more than its kernel. So a spinning kernel holds the
GPU while the calls of a sample are queued behind it; events around them then see the kernels back to back. Whether that
worked is asked of the GPU: the first event must not have happened when the last call was queued. What dispatch costs is
the `dispatch` probe's number.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from servegauge.probes.harness.base import Wrong
from servegauge.probes.harness.stats import Effort, repeat

MOST_QUEUED = 100  # calls in one sample; a stream's queue holds about 1000 launches, and a call may be several
CYCLES_PER_S = 2e9  # of the holding kernel, for its length; a slower clock only holds longer
HOLD_S = (50e-6, 1.0)  # shortest and longest hold
STEADY = 0.02  # a clock this near to another is the same
WARM_S = (0.1, 2.0)  # the clock is warm after the first at the earliest, and taken as it is after the second
WARM_BLIND_S = 0.5  # the same where no clock can be read
WARM_SPIN_S = 2e-3
NVML_CLOCK_SM = 1  # nvmlClockType_t
Seconds = tuple[list[float], dict[str, Any]]


class SmClock:
    """The SM clock of torch's current GPU, from NVML's library, which comes with the driver; no package is needed."""

    def __init__(self, torch: Any, library: Any = None) -> None:
        self.reason: str | None = None
        self._handle = ctypes.c_void_p()
        try:
            self._nvml = library or ctypes.CDLL("libnvidia-ml.so.1")
        except OSError as error:
            self.reason = f"NVML's library cannot be loaded: {error}"
            return
        uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
        if uuid is None:
            self.reason = "torch does not say the GPU's UUID, so NVML's clocks cannot be matched to it"
            return
        if self._error("nvmlInit_v2"):
            return
        for kind in ("GPU", "MIG"):
            name = f"{kind}-{str(uuid).removeprefix('GPU-').removeprefix('MIG-')}".encode()
            if not self._error("nvmlDeviceGetHandleByUUID", name, ctypes.byref(self._handle)):
                return

    def mhz(self) -> float | None:
        """The clock now; None with `reason` where NVML does not report it."""
        if self.reason:
            return None
        value = ctypes.c_uint()
        error = self._error("nvmlDeviceGetClockInfo", self._handle, ctypes.c_int(NVML_CLOCK_SM), ctypes.byref(value))
        return None if error else float(value.value)

    def _error(self, function: str, *arguments: Any) -> str | None:
        """NVML's message for a call that fails, kept as the reason; None when it succeeds."""
        status = getattr(self._nvml, function)(*arguments)
        self.reason = None
        if status:
            words = self._nvml.nvmlErrorString
            words.restype = ctypes.c_char_p
            self.reason = f"{function}: {words(status).decode()}"
        return self.reason


_clocks: dict[int, SmClock] = {}


def sm_clock(torch: Any) -> SmClock:
    """The clock of torch's current GPU; NVML is asked for the device once a process."""
    device = torch.cuda.current_device()
    if device not in _clocks:
        _clocks[device] = SmClock(torch)
    return _clocks[device]


class ClockLog:
    """The clock beside each sample: `note()` in a sample, `detail()` after the last."""

    def __init__(self, torch: Any) -> None:
        self.clock = sm_clock(torch)
        self.readings: list[float | None] = []

    def note(self) -> None:
        self.readings.append(self.clock.mhz())

    def detail(self, samples: int) -> dict[str, Any]:
        """Clocks in MHz of the last `samples` notes, and the numbers of the samples whose clock was another.

        None with NVML's message where a clock is missing.
        """
        kept = self.readings[-samples:]
        known = [mhz for mhz in kept if mhz is not None]
        if len(known) < samples:
            why = self.clock.reason or "NVML did not report the clock of every sample"
            return {"sm_clock_mhz": None, "clock_moved": None, "sm_clock_reason": why}
        usual = statistics.median(known)
        moved = [index for index, mhz in enumerate(known) if abs(mhz - usual) > STEADY * usual]
        return {"sm_clock_mhz": known, "clock_moved": moved}


def warm_up(torch: Any, operation: Callable[[int], object] | None = None) -> float:
    """Keep the GPU busy until its clock stays where it is; the seconds it took. Without `operation` it spins."""
    clock, began, seen = sm_clock(torch), time.perf_counter(), [0.0]
    calls = 0
    while True:
        until = time.perf_counter() + WARM_S[0] / 4
        while time.perf_counter() < until:
            torch.cuda._sleep(int(WARM_SPIN_S * CYCLES_PER_S))  # short calls alone would leave the GPU idle in between
            if operation is not None:
                for call in range(calls, calls + 10):
                    operation(call)
                calls += 10
            mhz = clock.mhz()  # before waiting: the GPU is at work now
            torch.cuda.synchronize()
        passed = time.perf_counter() - began
        if mhz is None:
            if passed >= WARM_BLIND_S:
                return passed
            continue
        steady = abs(mhz - seen[-1]) <= STEADY * mhz and mhz >= (1 - STEADY) * max(seen)
        if passed >= WARM_S[1] or (steady and passed >= WARM_S[0]):
            return passed
        seen.append(mhz)


def cuda_timed(torch: Any, operation: Callable[[int], object], effort: Effort) -> Seconds:
    """Seconds of one `operation(i)` on the GPU, and what they were measured under; i counts calls.

    Wrong where the calls cannot be queued before the GPU begins (one that waits for the GPU itself): the time would be
    the CPU's.
    """
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    log = ClockLog(torch)
    calls, hold_s = 0, HOLD_S[0]
    warmed = warm_up(torch, operation)

    def batch(inner: int) -> float:
        nonlocal calls, hold_s
        while True:
            torch.cuda.synchronize()
            torch.cuda._sleep(int(hold_s * CYCLES_PER_S))
            start.record()
            for i in range(calls, calls + inner):
                operation(i)
            end.record()
            hidden = not start.query()
            mhz = log.clock.mhz()
            end.synchronize()
            calls += inner
            if hidden:
                log.readings.append(mhz)
                return start.elapsed_time(end) / 1e3 / inner
            if hold_s >= HOLD_S[1]:
                raise Wrong(f"{inner} calls could not be queued within {hold_s:g} s: their time would be the CPU's")
            hold_s = min(2 * hold_s, HOLD_S[1])

    inner = min(MOST_QUEUED, max(1, math.ceil(effort.sample_s / max(batch(3), 1e-7))))
    seconds = repeat(lambda: batch(inner), effort)
    return seconds, {"calls_per_sample": inner, "warmed_s": round(warmed, 3), **log.detail(len(seconds))}


def wall_timed(torch: Any, sample: Callable[[], float], effort: Effort) -> Seconds:
    """What `sample` gives by its own clock, for what the CPU takes part in; warmed up, with the SM clock of each."""
    log = ClockLog(torch)
    warmed = warm_up(torch)

    def one() -> float:
        value = sample()
        log.note()
        return value

    values = repeat(one, effort)
    return values, {"warmed_s": round(warmed, 3), **log.detail(len(values))}
