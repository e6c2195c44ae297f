"""Rows of steps and of traces: what each step and each device did with its time."""

from __future__ import annotations

from typing import Any

import numpy as np

from servegauge.traces import labels, names, tally
from servegauge.traces.activity import phase_name, place
from servegauge.traces.attribution import NONE, is_kernel
from servegauge.traces.breakdown import COLUMNS, breakdown
from servegauge.traces.intervals import Cover, group_sum, unions
from servegauge.traces.view import View, last_call


def step_rows(view: View, shift: int) -> list[dict[str, Any]]:
    """Rows of STEPS; `shift` is added to every time. A step without GPU work has null in the columns of a device."""
    capture, joined = view.capture, view.joined
    operations = capture.operations
    rows = np.nonzero(joined.step_of != NONE)[0]
    found = tally.groups(joined.step_of[rows], operations.device[rows])
    parts = breakdown(capture, rows, found.of, len(found))
    after = joined.after[rows]
    sampled = unions(found.of[after], operations.start[rows][after], operations.end[rows][after], len(found))
    kernels = found.sum(is_kernel(capture)[rows])
    of_step: dict[int, list[int]] = {}
    for index, step in enumerate(found.keys[:, 0].tolist()):
        of_step.setdefault(step, []).append(index)
    hosts, separate = _hosts(view), sampling_told(view)
    numbers: dict[int, int] = {}
    out = []
    for index, step in enumerate(view.steps):
        numbers[step.process] = numbers.get(step.process, -1) + 1
        if step.process not in view.ranks:
            continue
        host = hosts[index]
        common = {
            "step": numbers[step.process],
            "phase": phase_name(view.step_phase[index]),
            "label": step.text,
            **_counts(step.label),
            "start_ns": step.start + shift,
            "end_ns": host["end"] + shift,
            "cut": step.cut,
            "cpu_ns": None if step.cut else step.label_end - step.start,
            **{name: host[name] for name in ("sampling_cpu_ns", "launches", "graph_launches")},
        }
        for group in of_step.get(index, []):
            out.append(
                place(view, step.process, int(found.keys[group, 1]))
                | common
                | {name: int(parts[name][group]) for name in COLUMNS}
                | {
                    "gpu_start_ns": int(parts["first"][group]) + shift,
                    "gpu_end_ns": int(parts["last"][group]) + shift,
                    "sampling_gpu_ns": int(sampled[group]) if step.process in separate else None,
                    "kernels": int(kernels[group]),
                }
            )
        if index not in of_step:
            nothing = {"kernels": 0, "gpu_busy_ns": 0} if len(operations) else {}
            if len(operations) and step.process in separate:
                nothing["sampling_gpu_ns"] = 0
            out.append(place(view, step.process, view.device_of(step.process)) | common | nothing)
    return out


def _counts(label: labels.Label | None) -> dict[str, int | None]:
    fields = ("context_requests", "context_tokens", "generation_requests", "generation_tokens")
    return {field: getattr(label, field) if label else None for field in fields}


def _hosts(view: View) -> list[dict[str, Any]]:
    """What the host did in each step: its end, its time after the label, and its launches."""
    calls, joined, count = view.capture.calls, view.joined, len(view.steps)
    last = last_call(view.capture, view.steps, joined)
    rows = np.nonzero(joined.step_of_call != NONE)[0]
    of = joined.step_of_call[rows]
    named = {
        key: np.array([test(name) for name in view.capture.names], dtype=bool)
        for key, test in (("launches", names.is_launch), ("graph_launches", names.is_graph_launch))
    }
    counted = {
        key: group_sum(of, which[calls.name[rows]].astype(np.int64), count) if len(rows) else np.zeros(count, np.int64)
        for key, which in named.items()
    }
    separate = sampling_told(view)
    covers = {process: sampling_ranges(view, process) for process in {step.process for step in view.steps}}
    out = []
    for index, step in enumerate(view.steps):
        end = view.bounds[index][1]
        tail = max(0, min(int(last[index]), end) - step.label_end)
        inside = covers[step.process].covered(np.array([step.start]), np.array([step.label_end]))[0]
        out.append(
            {"end": end, "sampling_cpu_ns": tail + int(inside) if step.process in separate else None}
            | {key: int(values[index]) if (calls.correlation != -1).any() else None for key, values in counted.items()}
        )
    return out


def sampling_told(view: View) -> set[int]:
    """Processes in which sampling lies after the labels, or in ranges of its own: elsewhere it is not known."""
    return set(np.unique(view.capture.calls.process[view.joined.after_of_call]).tolist())


def sampling_ranges(view: View, process: int) -> Cover:
    """The ranges of a process that are named after sampling."""
    ranges = view.capture.ranges
    if not len(ranges):
        return Cover(np.empty(0, np.int64), np.empty(0, np.int64))
    sampling = np.array([labels.is_sampling(name) for name in view.capture.names], dtype=bool)[ranges.name]
    sampling &= ranges.process == process
    return Cover(ranges.start[sampling], ranges.end[sampling])


def trace_rows(view: View, clock: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of TRACES: one for each rank and device, and one for a rank that used none."""
    capture, operations = view.capture, view.capture.operations
    kernels = is_kernel(capture)
    out = []
    for process in view.ranks:
        devices: list[int | None] = [*view.devices.get(process, ())]
        for device in devices or [None]:
            own = (operations.process == process) & (operations.device == (-1 if device is None else device))
            rows = np.nonzero(own)[0]
            whole = breakdown(capture, rows, np.zeros(len(rows), dtype=np.int64), 1) if len(rows) else None
            count = int((own & kernels).sum())
            attributed = int((own & kernels & (view.joined.step_of != NONE)).sum())
            out.append(
                place(view, process, device)
                | {
                    "device_name": capture.device_names.get(device) if device is not None else None,
                    "profiler": capture.profiler,
                    "version": capture.version,
                    "schema": capture.schema,
                    "file": capture.file,
                    "graph_mode": capture.graph_mode,
                    "ranks": len(view.devices) if len(operations) else 0,
                    "steps": sum(step.process == process for step in view.steps),
                    "kernels": count,
                    "kernels_attributed": attributed,
                    "attributed_share": attributed / count if count else None,
                    "dropped": capture.dropped,
                    **({name: int(whole[name][0]) for name in COLUMNS} if whole else {}),
                    "phase_source": view.phase_source,
                    "reason": "; ".join([*view.reasons[process], *clock["reasons"]]) or None,
                    **{name: clock[name] for name in ("clock_source", "clock_error_ns", "epoch_offset_ns")},
                }
            )
    return out
