"""Which call started an operation, which step a call belongs to, and so which step an operation belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from servegauge.traces import labels, names
from servegauge.traces.capture import GRAPH, KERNEL, Capture
from servegauge.traces.intervals import Cover
from servegauge.traces.steps import Step

NONE = -1


@dataclass(frozen=True)
class Attribution:
    """Indices that join the capture's tables, -1 where there is nothing to join to."""

    call_of: np.ndarray  # int32 (operations,), index into calls
    step_of_call: np.ndarray  # int32 (calls,), index into steps
    after_of_call: np.ndarray  # bool (calls,), called for after the step's label had ended, or in a sampling range
    step_of: np.ndarray  # int32 (operations,)
    after: np.ndarray  # bool (operations,)


def is_kernel(capture: Capture) -> np.ndarray:
    """bool (operations,): kernels, and graphs that are one row."""
    return (capture.operations.kind == KERNEL) | (capture.operations.kind == GRAPH)


def calls_of_operations(capture: Capture) -> np.ndarray:
    """The call with each operation's correlation in the same process, -1 for an orphan: int32 (operations,).

    Where several calls share a correlation, it is that which starts work, since others only surround it.
    """
    operations, calls = capture.operations, capture.calls
    found = np.full(len(operations), NONE, dtype=np.int32)
    if not len(operations) or not len(calls):
        return found
    starts = np.array([names.starts_work(name) for name in capture.names], dtype=bool)[calls.name]
    for process in np.unique(operations.process):
        own = np.nonzero(operations.process == process)[0]
        for kind in (starts, ~starts):
            wanted = own[(found[own] == NONE) & (operations.correlation[own] >= 0)]
            rows = np.nonzero((calls.process == process) & kind & (calls.correlation >= 0))[0]
            if len(wanted) and len(rows):
                found[wanted] = _matching(calls.correlation[rows], rows, operations.correlation[wanted])
    return found


def _matching(keys: np.ndarray, rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The first row whose key is each wanted one, -1 where there is none."""
    low, span = int(keys.min()), int(keys.max()) - int(keys.min()) + 1
    if span <= 8 * len(keys) + 1_000_000:
        # Correlation ids count up, so a table addressed by them is small and needs no sorting.
        at = np.full(span, NONE, dtype=np.int32)
        at[keys[::-1] - low] = rows[::-1]
        inside = (wanted >= low) & (wanted < low + span)
        return np.where(inside, at[np.where(inside, wanted - low, 0)], NONE)
    order = np.argsort(keys, kind="stable")
    place = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
    return np.where(keys[order][place] == wanted, rows[order][place], NONE)


def attribute(capture: Capture, steps: list[Step]) -> Attribution:
    """Join operations to calls, and calls to steps by the time of the call on the step's process or thread."""
    calls = capture.calls
    call_of = calls_of_operations(capture)
    step_of_call = np.full(len(calls), NONE, dtype=np.int32)
    after_of_call = np.zeros(len(calls), dtype=bool)
    for lane in sorted({(step.process, step.thread) for step in steps}, key=str):
        process, thread = lane
        index = np.array([i for i, step in enumerate(steps) if (step.process, step.thread) == lane])
        mine = calls.process == process
        if thread is not None:
            mine &= calls.thread == thread
        rows = np.nonzero(mine)[0]
        begins = np.array([steps[i].start for i in index], dtype=np.int64)
        reach = np.array([steps[i].reach for i in index], dtype=np.int64)
        label_end = np.array([steps[i].label_end for i in index], dtype=np.int64)
        at = np.searchsorted(begins, calls.start[rows], side="right") - 1
        inside = (at >= 0) & (calls.start[rows] <= reach[np.maximum(at, 0)])
        rows, at = rows[inside], at[inside]
        step_of_call[rows] = index[at]
        after_of_call[rows] = calls.start[rows] > label_end[at]
    after_of_call |= (step_of_call != NONE) & _in_sampling(capture)
    after_of_call &= calls.correlation != -1
    step_of = np.where(call_of != NONE, step_of_call[np.maximum(call_of, 0)] if len(calls) else NONE, NONE)
    after = (step_of != NONE) & (after_of_call[np.maximum(call_of, 0)] if len(calls) else False)
    return Attribution(call_of, step_of_call, after_of_call, step_of, after)


def _in_sampling(capture: Capture) -> np.ndarray:
    """bool (calls,): inside a range that is named after sampling, on the same thread."""
    calls, ranges = capture.calls, capture.ranges
    inside = np.zeros(len(calls), dtype=bool)
    sampling = np.array([labels.is_sampling(name) for name in capture.names], dtype=bool)
    rows = np.nonzero(sampling[ranges.name])[0] if len(ranges) else np.empty(0, dtype=np.int64)
    for process, thread in {(int(ranges.process[i]), int(ranges.thread[i])) for i in rows}:
        own = rows[(ranges.process[rows] == process) & (ranges.thread[rows] == thread)]
        mine = np.nonzero((calls.process == process) & (calls.thread == thread))[0]
        cover = Cover(ranges.start[own], ranges.end[own])
        inside[mine] = cover.covered(calls.start[mine], calls.start[mine] + 1) > 0
    return inside
