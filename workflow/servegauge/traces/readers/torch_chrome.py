"""Chrome traces of PyTorch's profiler (kineto), .json or .json.gz, of CUDA and of ROCm.

`ts` and `dur` are microseconds with three decimals; `baseTimeNanoseconds` + 1000 ts is Unix time. The zero of the
capture is its earliest event. A graph's kernels carry the correlation of their cudaGraphLaunch.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np

from servegauge.base.errors import UserError
from servegauge.traces import labels
from servegauge.traces.capture import (
    KERNEL,
    MEMCPY,
    MEMSET,
    Calls,
    Capture,
    Operations,
    Process,
    Ranges,
    Shape,
    table,
)
from servegauge.traces.names import element_bytes, is_collective, is_graph_launch

KNOWN = "Chrome traces of PyTorch's profiler (.json, .json.gz)"

_KINDS = {"kernel": KERNEL, "gpu_memcpy": MEMCPY, "gpu_memset": MEMSET}
_CALLS = ("cuda_runtime", "cuda_driver", "hip_runtime", "hip_driver")
_OURS = {*_KINDS, *_CALLS, "user_annotation", "cpu_op", "python_function", "gpu_user_annotation"}
_DIRECTIONS = {"HtoD": 1, "DtoH": 2, "DtoD": 3, "HtoH": 4, "PtoP": 5}
_MOST_US = 4e15
_MEMORIES = {"pinned": 1, "pageable": 2, "managed": 3}


class _Args(msgspec.Struct, rename={"registers": "registers per thread"}):
    """The arguments that are read; kineto writes many more."""

    correlation: Any = None
    device: Any = None
    bytes: Any = None
    grid: Any = None
    block: Any = None
    registers: Any = None
    in_elements: Any = msgspec.field(default=None, name="In msg nelems")
    out_elements: Any = msgspec.field(default=None, name="Out msg nelems")
    dtype: Any = None
    graph_id: Any = msgspec.field(default=None, name="graph id")


class _Event(msgspec.Struct):
    ph: str = ""
    cat: str | None = None
    name: Any = ""
    pid: Any = 0
    tid: Any = 0
    ts: Any = None
    dur: Any = None
    args: _Args | None = None


class _Document(msgspec.Struct):
    traceEvents: list[_Event] | None = None
    schemaVersion: Any = None
    baseTimeNanoseconds: int | None = None
    distributedInfo: Any = None
    deviceProperties: Any = None
    torch_version: Any = None


def reads(source) -> bool:
    """Whether it is JSON."""
    return source.format == "json"


def read(source) -> Capture:
    """The capture in the trace."""
    document = _document(source)
    events = [event for event in document.traceEvents or () if event.ph == "X" and _number(event.ts)]
    if not events:
        raise UserError(f"{source.name}: a trace without a single complete event (ph X): the profiler recorded nothing")
    categories = {event.cat for event in events}
    if not categories & _OURS:
        found = ", ".join(sorted(str(category) for category in categories if category)[:6])
        raise UserError(
            f"{source.name}: a Chrome trace, but not of PyTorch's profiler: its events have "
            f"{f'the categories {found}' if found else 'no category'}; known are {', '.join(sorted(_OURS))}"
        )
    zero = min((_ns(event.ts) for event in events if event.cat != "Trace"), default=0)
    names: dict[str, int] = {}
    shapes: dict[tuple, int] = {}
    calls = _calls(events, zero, names)
    rank = _rank(document.distributedInfo)
    base = document.baseTimeNanoseconds
    operations = _operations(events, zero, names, shapes, calls, source.name)
    graph = bool(operations.in_graph.any())
    return Capture(
        file=source.name,
        profiler="torch",
        version=str(document.torch_version) if document.torch_version else None,
        schema=str(document.schemaVersion) if document.schemaVersion is not None else None,
        operations=operations,
        calls=calls,
        ranges=_ranges(events, zero, names),
        names=list(names),
        shapes=[Shape(*key) for key in shapes],
        processes=[Process(pid=_pid(events), rank=rank)],
        device_names=_device_names(document.deviceProperties),
        graph_mode="node" if graph else "none",
        # Without a base, `ts` of old versions is Unix time itself.
        epoch_zero_ns=base + zero if base is not None else zero if zero > 1_000_000_000_000_000_000 else None,
        recording_ns=min((_ns(event.ts) - zero for event in events if event.cat == "Trace"), default=None),
        notes=_notes(categories),
    )


def _document(source) -> _Document:
    opener = gzip.open if source.path.suffix == ".gz" or _packed(source.path) else open
    with opener(source.path, "rb") as file:
        data = file.read()
    try:
        if data.lstrip()[:1] == b"[":
            return _Document(traceEvents=msgspec.json.decode(data, type=list[_Event]))
        document = msgspec.json.decode(data, type=_Document)
    except msgspec.ValidationError as error:
        raise UserError(f"{source.name}: JSON, but no Chrome trace: {error}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        document = _lenient(data, source.name, error)
    if document.traceEvents is None:
        raise UserError(f"{source.name}: JSON without traceEvents: not a trace, or the trace of another tool")
    return document


def _lenient(data: bytes, name: str, first: Exception) -> _Document:
    """Kineto may write NaN and stray control characters, which JSON forbids and Python's own parser lets pass."""
    try:
        return msgspec.convert(json.loads(data.decode("utf-8", "replace"), strict=False), type=_Document)
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: JSON, but no Chrome trace: {error}") from error
    except (ValueError, RecursionError):
        raise UserError(
            f"{name}: the JSON is cut off or damaged ({first}); the profiler was stopped while it wrote, or the copy "
            "was: record or copy it again"
        ) from first


def _packed(path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _number(value: Any) -> bool:
    """Whether it is a time in microseconds whose nanoseconds fit into int64, twice."""
    try:
        return abs(float(value)) < _MOST_US  # NaN is not
    except (TypeError, ValueError, OverflowError):
        return False


def _ns(value: Any) -> int:
    """Microseconds as nanoseconds: whole and broken part apart, since the product would lose the last digit."""
    if isinstance(value, int):
        return value * 1000
    value = float(value)
    whole = math.floor(value)
    return whole * 1000 + round((value - whole) * 1000)


def _int(value: Any, default: int = -1, most: int = np.iinfo(np.int64).max) -> int:
    """The number; `default` where it is none, or none of -1 ... `most`."""
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return found if -1 <= found <= most else default


def _span(event: _Event, zero: int) -> tuple[int, int]:
    start = _ns(event.ts) - zero
    return start, start + (max(0, _ns(event.dur)) if _number(event.dur) else 0)


def _calls(events: list[_Event], zero: int, names: dict[str, int]) -> Calls:
    rows = [event for event in events if event.cat in _CALLS]
    correlations = [_int(event.args.correlation) if event.args else -1 for event in rows]
    return table(Calls, [_of_host(rows, zero, names) | {"correlation": np.array(correlations, dtype=np.int64)}])


def _of_host(rows: list[_Event], zero: int, names: dict[str, int]) -> dict[str, np.ndarray]:
    """The columns that Calls and Ranges share."""
    spans = np.array([_span(event, zero) for event in rows], dtype=np.int64).reshape(-1, 2)
    return {
        "start": spans[:, 0],
        "end": spans[:, 1],
        "process": np.zeros(len(rows), dtype=np.int32),
        "thread": np.array([_thread(event.tid) for event in rows], dtype=np.int64),
        "name": np.array([names.setdefault(str(event.name), len(names)) for event in rows], dtype=np.int32),
    }


def _thread(value: Any) -> int:
    return (value if isinstance(value, int) else zlib.crc32(str(value).encode())) & 0x7FFFFFFF


def _operations(
    events: list[_Event], zero: int, names: dict[str, int], shapes: dict[tuple, int], calls: Calls, file: str
) -> Operations:
    rows = [event for event in events if event.cat in _KINDS]
    texts = list(names)
    graph_launches = {
        int(value) for value, name in zip(calls.correlation, calls.name, strict=True) if is_graph_launch(texts[name])
    }
    columns: dict[str, list] = {column.name: [] for column in fields(Operations) if column.name != "process"}
    nothing = _Args()
    for event in rows:
        args = event.args or nothing
        start, end = _span(event, zero)
        kind, name = _KINDS[event.cat or ""], str(event.name)
        correlation = _int(args.correlation)
        direction, memory = _copy(name) if kind == MEMCPY else (6, 0) if kind == MEMSET else (0, 0)
        for key, value in (
            ("start", start),
            ("end", end),
            ("device", _int(args.device if args.device is not None else event.pid, 0, np.iinfo(np.int16).max)),
            ("correlation", correlation),
            ("kind", kind),
            ("name", names.setdefault(name, len(names))),
            ("bytes", _int(args.bytes) if kind != KERNEL else _message(name, args)),
            ("direction", direction),
            ("memory", memory),
            ("shape", _shape(args, shapes) if kind == KERNEL else -1),
            ("in_graph", correlation in graph_launches or _int(args.graph_id, 0) > 0),
        ):
            columns[key].append(value)
    columns["process"] = [0] * len(rows)
    return table(Operations, [{key: np.array(values) for key, values in columns.items()}])


def _copy(name: str) -> tuple[int, int]:
    """Direction and the host's kind of memory of `Memcpy HtoD (Pinned -> Device)`."""
    found = re.match(r"Memcpy (\w+)(?: \((\w+)[^>]*-> (\w+))?", name)
    if not found:
        return 0, 0
    direction = _DIRECTIONS.get(found[1], 0)
    host = found[2] if direction in (1, 4) else found[3] if direction == 2 else None
    return direction, _MEMORIES.get((host or "").lower(), 0)


def _message(name: str, args: _Args) -> int:
    """Bytes of a collective's message: the larger of what goes in and what comes out; -1 where it is not written."""
    size = element_bytes(args.dtype) if args.dtype is not None and is_collective(name) else None
    elements = max(_int(count, most=1 << 50) for count in (args.in_elements, args.out_elements))
    return elements * size if size and elements >= 0 else -1


def _shape(args: _Args, shapes: dict[tuple, int]) -> int:
    grid, block = args.grid, args.block
    if not (isinstance(grid, list) and isinstance(block, list) and len(grid) == len(block) == 3):
        return -1
    registers = _int(args.registers)
    key = (tuple(_int(v) for v in grid), tuple(_int(v) for v in block), registers if registers >= 0 else None)
    return shapes.setdefault(key, len(shapes))


def _ranges(events: list[_Event], zero: int, names: dict[str, int]) -> Ranges:
    told = (labels.parse, labels.is_sampling, labels.clock_marker)
    annotations = [event for event in events if event.cat == "user_annotation"]
    rows = [event for event in annotations if any(read(str(event.name)) for read in told)]
    is_open = np.array([not _number(event.dur) for event in rows], dtype=bool)
    return table(Ranges, [_of_host(rows, zero, names) | {"open": is_open}])


def _rank(info: Any) -> int | None:
    rank = info.get("rank") if isinstance(info, dict) else None
    return rank if isinstance(rank, int) and 0 <= rank <= np.iinfo(np.int32).max else None


def _pid(events: list[_Event]) -> int:
    return next((event.pid for event in events if event.cat in _CALLS and isinstance(event.pid, int)), 0)


def _device_names(properties: Any) -> dict[int, str]:
    if not isinstance(properties, list):
        return {}
    return {
        entry["id"]: str(entry["name"])
        for entry in properties
        if isinstance(entry, dict) and isinstance(entry.get("id"), int) and entry.get("name")
    }


def _notes(categories: set[str | None]) -> tuple[str, ...]:
    if not categories & set(_KINDS):
        return ("no GPU work: the trace has no kernels (a CPU run, or the profiler ran without ProfilerActivity.CUDA)",)
    if not categories & set(_CALLS):
        return ("no launches: the trace has no API calls, so no kernel can be given to a step",)
    return ()
