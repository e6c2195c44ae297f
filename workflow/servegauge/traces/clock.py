"""Whose clock is whose: a capture's time on the clock of the requests beside it, and how far that can be wrong.

Three things can tell. Marker ranges `servegauge:clock:<CLOCK_MONOTONIC in ns>` measure the difference of the clocks.
Unix time joins them without a measurement. Stamps that a launch took around its calls to the profiler bound it: the
recording began inside the call that started it, nothing was recorded before that was asked for, and nothing after the
call that ended it was answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from servegauge.traces import labels
from servegauge.traces.capture import Capture

MARKER, EPOCH, CALLS, NOTHING = "marker", "epoch", "calls", "none"


@dataclass(frozen=True)
class Stamps:
    """CLOCK_MONOTONIC in ns before and after the calls that started and stopped a profiler; None where not taken."""

    start_asked: int
    start_answered: int | None = None
    stop_answered: int | None = None


@dataclass(frozen=True)
class Clock:
    """Of a window of requests: CLOCK_MONOTONIC at its 0, Unix - monotonic time, and the stamps around the profiler."""

    window_start_ns: int | None = None
    epoch_offset_ns: int | None = None
    stamps: Stamps | None = None

    @classmethod
    def of(cls, given: Any, recorders: Any = None) -> Clock:
        """From `clock` and `recorders` of a record; what is no number there is not known."""
        given = given if isinstance(given, dict) else {}
        start, offset = (_whole(given.get(name)) for name in ("window_start_ns", "epoch_offset_start_ns"))
        return cls(start, offset, _stamps(recorders))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _stamps(recorders: Any) -> Stamps | None:
    """The `stamps_ns` of the recorder that has them: `start` and `stop`, each [asked, answered]."""
    for one in recorders.values() if isinstance(recorders, dict) else ():
        found = one.get("stamps_ns") if isinstance(one, dict) else None
        if isinstance(found, dict):
            start, stop = (
                [_whole(value) for value in pair] if isinstance(pair := found.get(name), list) else []
                for name in ("start", "stop")
            )
            if start and start[0] is not None:
                return Stamps(start[0], start[1] if len(start) > 1 else None, stop[1] if len(stop) > 1 else None)
    return None


def join(capture: Capture, clock: Clock | None) -> tuple[int, dict[str, Any]]:
    """What to add to a time of the capture, and the clock's columns of TRACES with `reasons`."""
    none: dict[str, Any] = {"clock_source": NOTHING, "clock_error_ns": None, "reasons": []}
    none["epoch_offset_ns"] = capture.epoch_zero_ns
    if clock is None:
        return 0, none
    start, offset = clock.window_start_ns, clock.epoch_offset_ns
    if start is None:
        why = "the requests say nothing of their clock (metadata `clock`, or cell.json or trace.json beside them)"
        return 0, none | {"reasons": [f"not joined with the requests: {why}"]}
    zero = start + offset if offset is not None else None
    joined = none | {"epoch_offset_ns": zero}
    differences = _markers(capture)
    if len(differences):
        # A marker begins after its stamp was taken, so the smallest difference is the nearest to the truth.
        least = int(differences.min())
        error = int(differences.max()) - least if len(differences) > 1 else None
        reasons = [] if error is not None else ["clock error not measured: a single marker"]
        return -least - start, joined | {"clock_source": MARKER, "clock_error_ns": error, "reasons": reasons}
    bounds = _bounds(capture, clock)
    if zero is not None and capture.epoch_zero_ns is not None:
        shift = capture.epoch_zero_ns - zero
        if bounds is None:
            why = "clock error not measured: joined by Unix time; no marker range and no stamps of the launch bound it"
            return shift, joined | {"clock_source": EPOCH, "reasons": [why]}
        if bounds[0] <= shift <= bounds[1]:
            error = max(shift - bounds[0], bounds[1] - shift)
            return shift, joined | {"clock_source": EPOCH, "clock_error_ns": error}
    if bounds is None:
        why = "the capture has neither a marker range nor the Unix time of its zero, and no launch's stamps bound it"
        return 0, none | {"reasons": [f"not joined with the requests: {why}"]}
    low, high = bounds
    reasons = []
    if zero is not None and capture.epoch_zero_ns is not None:
        far = max(low - (capture.epoch_zero_ns - zero), capture.epoch_zero_ns - zero - high)
        reasons = [f"the capture's Unix time is {far / 1e6:,.1f} ms outside of the calls to the profiler: not used"]
    half = -((low - high) // 2)
    return high - half, joined | {"clock_source": CALLS, "clock_error_ns": half, "reasons": reasons}


def _bounds(capture: Capture, clock: Clock) -> tuple[int, int] | None:
    """The least and the largest shift that the stamps allow; None where they allow none, or bound one side only."""
    stamps, start = clock.stamps, clock.window_start_ns
    tables = [table for table in (capture.operations, capture.calls, capture.ranges) if len(table)]
    if stamps is None or start is None or not tables:
        return None
    first = min(int(table.start.min()) for table in tables)
    last = max(int(table.end.max()) for table in tables)
    low = [stamps.start_asked - first]
    high = [] if stamps.stop_answered is None else [stamps.stop_answered - last]
    if capture.recording_ns is not None:
        low.append(stamps.start_asked - capture.recording_ns)
        high += [] if stamps.start_answered is None else [stamps.start_answered - capture.recording_ns]
    if not high or max(low) > min(high):
        return None
    return max(low) - start, min(high) - start


def _markers(capture: Capture) -> np.ndarray:
    """Time of the capture minus CLOCK_MONOTONIC, at each marker range."""
    ranges = capture.ranges
    found = [
        int(start) - stamp
        for start, name in zip(ranges.start, ranges.name, strict=True)
        if (stamp := labels.clock_marker(capture.names[name])) is not None
    ]
    return np.array(found, dtype=np.int64)
