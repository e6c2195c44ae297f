"""What every reader makes of a profiler's file: columns of GPU operations, API calls and labelled ranges.

All times are int64 nanoseconds from the profiler's own zero. Texts are stored once in `names`; columns hold indices.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np

KERNEL, MEMCPY, MEMSET, GRAPH = 0, 1, 2, 3
"""Kinds of GPU operation; a graph is one row where the profiler recorded graphs as a whole."""

DIRECTIONS = ("other", "HtoD", "DtoH", "DtoD", "HtoH", "PtoP", "memset")
MEMORIES = (None, "pinned", "pageable", "managed")


@dataclass(frozen=True)
class Operations:
    """What ran on devices. Each column has one value per operation, sorted by start."""

    start: np.ndarray  # int64 ns
    end: np.ndarray  # int64 ns
    process: np.ndarray  # int16, index into Capture.processes
    device: np.ndarray  # int16, as the profiler numbers it
    correlation: np.ndarray  # int32 or int64, joins with Calls.correlation of the same process; -1 where there is none
    kind: np.ndarray  # int8, KERNEL | MEMCPY | MEMSET | GRAPH
    name: np.ndarray  # int32, index into Capture.names
    bytes: np.ndarray  # int64, of a copy or a collective's message; -1 where unknown
    direction: np.ndarray  # int8, index into DIRECTIONS
    memory: np.ndarray  # int8, index into MEMORIES
    shape: np.ndarray  # int32, index into Capture.shapes; -1 where unknown
    in_graph: np.ndarray  # bool, a kernel that a graph launched

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Calls:
    """What hosts called, runtime and driver API alike. Sorted by start."""

    start: np.ndarray
    end: np.ndarray
    process: np.ndarray
    thread: np.ndarray  # int32, some number of the thread
    correlation: np.ndarray  # -1: a call to the operating system, which can start nothing on a device
    name: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Ranges:
    """Labelled ranges of hosts: NVTX ranges, or torch's user annotations. Sorted by start."""

    start: np.ndarray
    end: np.ndarray
    process: np.ndarray
    thread: np.ndarray
    name: np.ndarray
    open: np.ndarray  # bool, the capture ended first; `end` is then the capture's

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Process:
    """One process of the server. `rank` is what the file says of it, None where it says nothing."""

    pid: int
    rank: int | None = None
    name: str = ""


@dataclass(frozen=True)
class Shape:
    """How a kernel was launched."""

    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    registers: int | None = None

    @property
    def blocks(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class Capture:
    """One file, or the files of several ranks, as a profiler left them."""

    file: str
    profiler: str  # nsys | torch
    version: str | None
    schema: str | None
    operations: Operations
    calls: Calls
    ranges: Ranges
    names: list[str]
    shapes: list[Shape]
    processes: list[Process]
    device_names: dict[int, str] = field(default_factory=dict)
    graph_mode: str = "none"  # none | graph | node
    epoch_zero_ns: int | None = None  # Unix time of the profiler's zero
    recording_ns: int | None = None  # when the profiler began to record, inside the call that started it
    dropped: int | None = None
    notes: tuple[str, ...] = ()  # what cannot be answered, and why


_TYPES = {
    "process": np.int16, "device": np.int16, "kind": np.int8, "name": np.int32, "direction": np.int8, "memory": np.int8,
    "shape": np.int32, "in_graph": np.bool_, "thread": np.int32, "open": np.bool_,
}  # fmt: skip
_DEFAULTS = {"correlation": -1, "bytes": -1, "shape": -1}


def table(kind: type, parts: list[dict[str, np.ndarray]]):
    """Operations, Calls or Ranges from parts that may lack columns (then the default), sorted by start.

    The parts are emptied on the way, column by column: a capture need not fit into memory twice.
    """
    parts = [part for part in parts if len(part["start"])]
    lengths = [len(part["start"]) for part in parts]
    columns = {}
    for column in fields(kind):
        values = [part.pop(column.name, None) for part in parts]
        dtype = _TYPES.get(column.name, np.int64)
        if column.name == "correlation" and all(v is not None and v.dtype == np.int32 for v in values) and values:
            dtype = np.int32
        whole: np.ndarray = np.empty(sum(lengths), dtype=dtype)
        at = 0
        for index, length in enumerate(lengths):
            found = values[index]
            whole[at : at + length] = _DEFAULTS.get(column.name, 0) if found is None else found
            values[index] = None
            at += length
        columns[column.name] = whole
    start = columns["start"]
    if len(start) and (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        for name in columns:
            columns[name] = columns[name][order]
    return kind(**columns)


def merged(captures: list[Capture]) -> Capture:
    """The captures of several ranks as one, on the first one's zero. Needs the Unix time of each one's zero."""
    first = captures[0]
    if len(captures) == 1:
        return first
    names: list[str] = []
    shapes: list[Shape] = []
    processes: list[Process] = []
    parts: dict[type, list[dict[str, np.ndarray]]] = {Operations: [], Calls: [], Ranges: []}
    for capture in captures:
        if capture.epoch_zero_ns is None or first.epoch_zero_ns is None:
            raise ValueError(f"{capture.file}: the Unix time of its zero is not known")
        shift = capture.epoch_zero_ns - first.epoch_zero_ns
        for kind, rows in ((Operations, capture.operations), (Calls, capture.calls), (Ranges, capture.ranges)):
            part = {column.name: getattr(rows, column.name) for column in fields(kind)}
            part["start"], part["end"] = part["start"] + shift, part["end"] + shift
            part["name"], part["process"] = part["name"] + len(names), part["process"] + len(processes)
            if "shape" in part:
                part["shape"] = np.where(part["shape"] < 0, -1, part["shape"] + len(shapes))
            parts[kind].append(part)
        names += capture.names
        shapes += capture.shapes
        processes += capture.processes
    modes = {capture.graph_mode for capture in captures}
    dropped = [capture.dropped for capture in captures if capture.dropped is not None]
    return replace(
        first,
        file=", ".join(capture.file for capture in captures),
        names=names,
        shapes=shapes,
        processes=processes,
        graph_mode=modes.pop() if len(modes) == 1 else "graph" if "graph" in modes else "node",
        dropped=sum(dropped) if len(dropped) == len(captures) else None,
        notes=tuple(dict.fromkeys(note for capture in captures for note in capture.notes)),
        device_names={device: name for capture in captures for device, name in capture.device_names.items()},
        operations=table(Operations, parts[Operations]),
        calls=table(Calls, parts[Calls]),
        ranges=table(Ranges, parts[Ranges]),
    )
