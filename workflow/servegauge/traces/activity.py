"""Rows of kernels, copies, collectives and launches: sums over the capture, by phase."""

from __future__ import annotations

from typing import Any

import numpy as np

from servegauge.traces import names, tally
from servegauge.traces.attribution import NONE, is_kernel
from servegauge.traces.breakdown import is_communication
from servegauge.traces.capture import DIRECTIONS, MEMCPY, MEMORIES, MEMSET, Shape
from servegauge.traces.intervals import Cover, merge
from servegauge.traces.view import PARTS, PHASES, View

_MATCHED = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "reduce")


def phase_name(code: int) -> str | None:
    return PHASES[code] if code >= 0 else None


def place(view: View, process: int, device: int | None) -> dict[str, Any]:
    """The columns that say where a row is from."""
    return {"trace": view.trace, "rank": view.ranks.get(int(process)), "device": device}


def kernel_rows(view: View) -> list[dict[str, Any]]:
    """Rows of KERNELS."""
    operations = view.capture.operations
    rows = np.nonzero(is_kernel(view.capture))[0]
    if not len(rows):
        return []
    phase = view.phase[rows]
    part = np.where(view.joined.step_of[rows] == NONE, -1, view.joined.after[rows].astype(np.int64))
    found = tally.groups(operations.process[rows], operations.device[rows], phase, part, operations.name[rows])
    duration = operations.end[rows] - operations.start[rows]
    total = found.sum(duration)
    p50, p99 = found.quantiles(duration, (0.5, 0.99))
    shape = found.most_frequent(operations.shape[rows])
    whole = tally.groups(*(found.keys[:, column] for column in range(3)))
    of_phase = whole.sum(total)[whole.of]
    out = [
        place(view, process, int(device))
        | {
            "phase": phase_name(phase_code),
            "part": PARTS[part_code] if part_code >= 0 else None,
            "kernel": (kernel := view.capture.names[name]),
            "kind": names.kernel_kind(kernel),
            "calls": int(found.calls[index]),
            "total_ns": int(total[index]),
            "p50_ns": int(p50[index]),
            "p99_ns": int(p99[index]),
            "share": float(total[index] / of_phase[index]) if of_phase[index] else 0.0,
            **(_shape(view.capture.shapes[shape[index]]) if shape[index] >= 0 else {}),
        }
        for index, (process, device, phase_code, part_code, name) in enumerate(found.keys)
    ]
    return sorted(out, key=lambda row: (row["rank"], row["device"], str(row["phase"]), -row["total_ns"], row["kernel"]))


def _shape(shape: Shape) -> dict[str, Any]:
    grid, block = ("x".join(map(str, one)) for one in (shape.grid, shape.block))
    return {"grid": grid, "block": block, "registers": shape.registers}


def copy_rows(view: View) -> list[dict[str, Any]]:
    """Rows of COPIES."""
    operations = view.capture.operations
    rows = np.nonzero((operations.kind == MEMCPY) | (operations.kind == MEMSET))[0]
    if not len(rows):
        return []
    keys = (operations.process, operations.device, operations.direction, operations.memory, view.phase)
    found = tally.groups(*(key[rows] for key in keys))
    total = found.sum(operations.end[rows] - operations.start[rows])
    amount = _bytes(found, operations.bytes[rows])
    return [
        place(view, process, int(device))
        | {
            "phase": phase_name(phase_code),
            "direction": DIRECTIONS[direction],
            "memory": MEMORIES[memory],
            "calls": int(found.calls[index]),
            "bytes": amount[index],
            "total_ns": int(total[index]),
            "gb_s": float(size / total[index]) if (size := amount[index]) is not None and total[index] else None,
        }
        for index, (process, device, direction, memory, phase_code) in enumerate(found.keys)
    ]


def _bytes(found: tally.Groups, size: np.ndarray) -> list[int | None]:
    """Bytes of each group; None where those of one of its rows are not known (-1)."""
    amount, unknown = found.sum(np.maximum(size, 0)), found.sum(size < 0)
    return [None if some else int(whole) for whole, some in zip(amount, unknown, strict=True)]


def launch_rows(view: View) -> list[dict[str, Any]]:
    """Rows of LAUNCHES: every API call, those that start nothing too."""
    calls, operations = view.capture.calls, view.capture.operations
    rows = np.nonzero(np.isin(calls.process, list(view.ranks)))[0]
    if not len(rows):
        return []
    first = np.full(len(calls), np.iinfo(np.int64).max)
    device = np.full(len(calls), -1, dtype=np.int64)
    joined = np.nonzero(view.joined.call_of != NONE)[0]
    np.minimum.at(first, view.joined.call_of[joined], operations.start[joined])
    device[view.joined.call_of[joined]] = operations.device[joined]
    alone = np.array([-1 if (d := view.device_of(p)) is None else d for p in range(len(view.capture.processes))])
    device = np.where(device < 0, alone[calls.process], device)
    found = tally.groups(calls.process[rows], device[rows], view.call_phase[rows], calls.name[rows])
    duration = calls.end[rows] - calls.start[rows]
    p50, p99 = found.quantiles(duration, (0.5, 0.99))
    total = found.sum(duration)
    starting = first[rows] != np.iinfo(np.int64).max
    queued = tally.groups(found.of[starting])
    wait = (first[rows] - calls.start[rows])[starting]
    queue = dict(zip(queued.keys[:, 0].tolist(), zip(*queued.quantiles(wait, (0.5, 0.99)), strict=True), strict=True))
    return [
        place(view, process, int(where) if where >= 0 else None)
        | {
            "phase": phase_name(phase_code),
            "call": view.capture.names[name],
            "calls": int(found.calls[index]),
            "total_ns": int(total[index]),
            "api_p50_ns": int(p50[index]),
            "api_p99_ns": int(p99[index]),
            "queue_p50_ns": int(queue[index][0]) if index in queue else None,
            "queue_p99_ns": int(queue[index][1]) if index in queue else None,
        }
        for index, (process, where, phase_code, name) in enumerate(found.keys)
    ]


def collective_rows(view: View) -> list[dict[str, Any]]:
    """Rows of COLLECTIVES."""
    operations = view.capture.operations
    communication = is_communication(view.capture)
    rows = np.nonzero(communication)[0]
    if not len(rows):
        return []
    kinds = [names.collective_kind(name) if names.is_collective(name) else "" for name in view.capture.names]
    texts = sorted(set(kinds))
    kind = np.array([texts.index(text) for text in kinds])[operations.name[rows]]
    skew = _skew(view, rows, kind, [text in _MATCHED for text in texts])
    found = tally.groups(operations.process[rows], operations.device[rows], view.phase[rows], kind)
    total = found.sum(operations.end[rows] - operations.start[rows])
    amount = _bytes(found, operations.bytes[rows])
    out = []
    for index, (process, device, phase_code, kind_code) in enumerate(found.keys):
        own = rows[found.of == index]
        start, end, _ = merge(operations.start[own], operations.end[own])
        computes = (operations.process == process) & (operations.device == device) & ~communication
        computes &= operations.kind != MEMCPY
        cover = Cover(operations.start[computes], operations.end[computes])
        apart = skew[found.of == index]
        apart = apart[apart >= 0]
        out.append(
            place(view, process, int(device))
            | {
                "phase": phase_name(phase_code),
                "kind": texts[kind_code],
                "calls": int(found.calls[index]),
                "bytes": amount[index],
                "total_ns": int(total[index]),
                "exposed_ns": int((end - start - cover.covered(start, end)).sum()),
                "skew_p50_ns": round(float(np.median(apart))) if len(apart) else None,
                "skew_max_ns": int(apart.max()) if len(apart) else None,
            }
        )
    return out


def _skew(view: View, rows: np.ndarray, kind: np.ndarray, matched: list[bool]) -> np.ndarray:
    """Last minus first start over ranks of each collective, int64 (rows,); -1 where it cannot be matched.

    The n-th of a kind on one rank is the n-th on each other, where all ranks have as many.
    """
    operations = view.capture.operations
    skew = np.full(len(rows), -1, dtype=np.int64)
    process = operations.process[rows]
    for code in np.unique(kind):
        members = [np.nonzero((kind == code) & (process == p))[0] for p in sorted(view.ranks)]
        if not matched[code] or len(members) < 2 or len({len(member) for member in members}) != 1:
            continue
        starts = np.stack([operations.start[rows[member]] for member in members])
        apart = starts.max(axis=0) - starts.min(axis=0)
        for member in members:
            skew[member] = apart
    return skew
