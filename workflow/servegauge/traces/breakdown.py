"""Where a device's time went: compute, exposed communication, exposed copies, idle; for a device and for each step."""

from __future__ import annotations

import numpy as np

from servegauge.traces import names
from servegauge.traces.capture import MEMCPY, Capture
from servegauge.traces.intervals import unions

TOLERANCE_NS = 1_000

COLUMNS = ("span_ns", "gpu_busy_ns", "compute_ns", "comm_exposed_ns", "memcpy_exposed_ns", "idle_ns")


def is_communication(capture: Capture) -> np.ndarray:
    """bool (operations,): kernels of collectives."""
    collective = np.array([names.is_collective(name) for name in capture.names], dtype=bool)
    rows = capture.operations
    return collective[rows.name] & (rows.kind != MEMCPY) if len(rows) else np.empty(0, dtype=bool)


def breakdown(capture: Capture, rows: np.ndarray, group: np.ndarray, groups: int) -> dict[str, np.ndarray]:
    """COLUMNS, and `first` and `last` in ns, of each group of operations: int64 (groups,).

    `rows` selects operations, `group` (same length) says whose they are; all operations of a group lie on one device.
    A group without operations has zeros. Raises ValueError where the parts do not add up, which none may.
    """
    start, end = capture.operations.start[rows], capture.operations.end[rows]
    copies = capture.operations.kind[rows] == MEMCPY
    communication = is_communication(capture)[rows]
    computes = ~copies & ~communication

    def union(which: np.ndarray) -> np.ndarray:
        return unions(group[which], start[which], end[which], groups)

    # Without communication, or without copies, two of the unions are one.
    compute = union(computes)
    kernels = union(~copies) if communication.any() else compute
    busy = unions(group, start, end, groups) if copies.any() else kernels
    first = np.full(groups, np.iinfo(np.int64).max)
    last = np.full(groups, np.iinfo(np.int64).min)
    np.minimum.at(first, group, start)
    np.maximum.at(last, group, end)
    span = np.where(last >= first, last - np.minimum(first, last), 0)
    parts = {
        "span_ns": span,
        "gpu_busy_ns": busy,
        "compute_ns": compute,
        "comm_exposed_ns": kernels - compute,
        "memcpy_exposed_ns": busy - kernels,
        "idle_ns": span - busy,
    }
    check(parts)
    return parts | {"first": first, "last": last}


def check(parts: dict[str, np.ndarray]) -> None:
    """Raise ValueError where compute + exposed communication + exposed copies + idle is not the span, to 1 us."""
    total = sum(np.asarray(parts[name]) for name in COLUMNS[2:])
    wrong = np.nonzero(np.abs(total - parts["span_ns"]) > TOLERANCE_NS)[0]
    negative = [name for name in COLUMNS if (np.asarray(parts[name]) < 0).any()]
    if len(wrong) or negative:
        raise ValueError(f"rows {wrong[:5].tolist()}: the parts of the span do not add up ({negative} below 0)")
