"""Why a device was idle: each gap between two of its operations, split by what the next one was waiting for.

From the end of the last operation until the host called for the next one it is late (`host_late`); as far as it waited
for the GPU in that time, that is `synchronisation`. Inside the API call it is `launch_call`, after the call `device`:
the time between submission and start, dependencies on other streams included. The parts of all gaps are the idle time.
The phase is that of the operation that ends the gap. While no step is under way the host has no work: that part is of
no phase.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from servegauge.traces import names
from servegauge.traces.activity import phase_name, place
from servegauge.traces.attribution import NONE
from servegauge.traces.intervals import Cover, merge
from servegauge.traces.view import PHASES, View

_CODES = (*range(len(PHASES)), NONE)
CAUSES = ("host_late", "synchronisation", "launch_call", "device", "unattributed")


def gap_rows(view: View) -> list[dict[str, Any]]:
    """Rows of GAPS."""
    operations = view.capture.operations
    out = []
    for process in view.ranks:
        for device in view.devices.get(process, []):
            own = np.nonzero((operations.process == process) & (operations.device == device))[0]
            start, end, first = merge(operations.start[own], operations.end[own])
            if len(start) < 2:
                continue
            parts = split(view, process, end[:-1], start[1:], own[first[1:]])
            phase = view.phase[own[first[1:]]]
            pauses = _between_steps(view, process, end[:-1], parts)
            parts["host_late"] = parts["host_late"] - pauses
            found = {(code, cause): lengths[phase == code] for code in _CODES for cause, lengths in parts.items()}
            found[NONE, "host_late"] = np.concatenate([found[NONE, "host_late"], pauses])
            for (code, cause), lengths in found.items():
                if some := int((lengths > 0).sum()):
                    row = {"phase": phase_name(code), "cause": cause, "calls": some, "total_ns": int(lengths.sum())}
                    out.append(place(view, process, device) | row)
    return out


def _between_steps(view: View, process: int, begin: np.ndarray, parts: dict[str, np.ndarray]) -> np.ndarray:
    """Of each gap's `host_late`, what lies between two steps; 0 where there are no steps."""
    bounds = [
        (start, end) for step, (start, end) in zip(view.steps, view.bounds, strict=True) if step.process == process
    ]
    if not bounds:
        return np.zeros(len(begin), dtype=np.int64)
    start, end = np.array(bounds, dtype=np.int64).T
    called = begin + parts["host_late"] + parts["synchronisation"]
    outside = (called - begin) - Cover(start, end).covered(begin, called)
    return np.minimum(outside, parts["host_late"])


def split(view: View, process: int, begin: np.ndarray, end: np.ndarray, following: np.ndarray) -> dict[str, np.ndarray]:
    """Length of each cause in each gap [begin, end), int64 (gaps,); they add up to the gap.

    `following` (gaps,) are the operations that end the gaps.
    """
    calls = view.capture.calls
    call = view.joined.call_of[following]
    known = call != NONE
    if not len(calls):
        nothing = np.zeros(len(begin), dtype=np.int64)
        return dict.fromkeys(CAUSES, nothing) | {"unattributed": end - begin}
    called = np.clip(calls.start[np.maximum(call, 0)], begin, end)
    returned = np.clip(calls.end[np.maximum(call, 0)], called, end)
    waiting = np.array([names.waits(name) for name in view.capture.names], dtype=bool)[calls.name]
    waiting &= calls.process == process
    late = called - begin
    synchronised = Cover(calls.start[waiting], calls.end[waiting]).covered(begin, called)
    parts = {
        "host_late": late - synchronised,
        "synchronisation": synchronised,
        "launch_call": returned - called,
        "device": end - returned,
    }
    parts = {cause: np.where(known, lengths, 0) for cause, lengths in parts.items()}
    return parts | {"unattributed": np.where(known, 0, end - begin)}
