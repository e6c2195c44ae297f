"""From an nsys sqlite export to a Capture. What differs between schemas is in the readers; what is common, here.

Names of tables and columns are those of NVIDIA's export. `globalTid` holds host, process and thread in one number:
all but its lowest 24 bits are the process's `globalPid`. Tables are made only for what occurred, so an absent table of
copies means no copies, but an absent table of calls or kernels means that CUDA was not traced.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servegauge.base.errors import UserError
from servegauge.traces import labels
from servegauge.traces.capture import (
    GRAPH,
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
from servegauge.traces.names import plain_call
from servegauge.traces.sqlite_source import Export

_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
_GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
_CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
_COPY = {1: 1, 2: 2, 8: 3, 9: 4, 10: 5, 11: 1, 12: 2, 13: 3}  # CUpti_ActivityMemcpyKind -> index into DIRECTIONS
_HOST_MEMORY = {0: 2, 1: 1, 4: 3, 6: 3}  # CUpti_ActivityMemoryKind -> index into MEMORIES
_RANGE_TYPES = (59, 60)  # push/pop and start/end


@dataclass(frozen=True)
class Dialect:
    """What a generation of the schema calls things."""

    driver_calls: str | None = None  # table of driver API calls, where they are not among the runtime's
    null_text: bool = True  # text of a range is null where it is a registered string; else the empty text
    graphs: bool = True  # graphs may be traced as a whole
    system_clock: bool = False  # TARGET_INFO_SESSION_START_TIME has CLOCK_MONOTONIC beside the UTC time


class _Names:
    """Texts of StringIds as indices into one list."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self.list: list[str] = []
        self._index: dict[str, int] = {}

    def add(self, text: str) -> int:
        if text not in self._index:
            self._index[text] = len(self.list)
            self.list.append(text)
        return self._index[text]

    def of(self, parts: list[dict[str, np.ndarray]], column: str, plain: bool = False) -> None:
        """Replace ids of StringIds by indices, in place."""
        ids = np.unique(np.concatenate([part[column] for part in parts])) if parts else np.empty(0, np.int64)
        texts = self._export.texts(ids)
        codes = np.array(
            [self.add(plain_call(t) if plain else t) for t in (texts.get(int(i), f"unknown name {i}") for i in ids)],
            dtype=np.int32,
        )
        for part in parts:
            part[column] = codes[np.searchsorted(ids, part[column])]


def read(export: Export, dialect: Dialect) -> Capture:
    """The capture in `export`. Raises UserError where a table lacks what is needed."""
    names = _Names(export)
    shapes: dict[tuple[int, ...], int] = {}
    operations = _operations(export, names, shapes, dialect)
    calls = _calls(export, names, dialect)
    ranges = _ranges(export, names, dialect, _last(operations, calls))
    processes = _processes(export, [*operations, *calls, *ranges])
    found = table(Operations, operations)
    return Capture(
        file=export.path.name,
        profiler="nsys",
        version=export.meta.get("EXPORT_PRODUCT_VERSION"),
        schema=export.schema,
        operations=found,
        calls=table(Calls, calls),
        ranges=table(Ranges, ranges),
        names=names.list,
        shapes=[Shape(key[:3], key[3:6], key[6] if key[6] >= 0 else None) for key in shapes],
        processes=processes,
        device_names=_device_names(export),
        graph_mode="graph" if (found.kind == GRAPH).any() else "node" if found.in_graph.any() else "none",
        epoch_zero_ns=_epoch(export),
        dropped=None,
        notes=_notes(export),
    )


def _need(export: Export, name: str, *columns: str) -> None:
    if missing := [column for column in columns if not export.has(name, column)]:
        raise UserError(
            f"{export.path}: table {name} of schema {export.schema or 'without version'} has no column "
            f"{', '.join(missing)}; it has {', '.join(sorted(export.columns[name]))}; export the report again with the "
            "nsys that recorded it"
        )


def _process_of(export: Export, name: str) -> str:
    """SQL for the process of a row: globalPid and globalTid without their lowest 24 bits; 0 where neither is there."""
    for column in ("globalPid", "globalTid"):
        if export.has(name, column):
            return f"COALESCE({column}, 0) >> 24"
    return "0"


def _or(export: Export, name: str, column: str, default: int) -> str:
    return f'COALESCE("{column}", {default})' if export.has(name, column) else str(default)


def _operations(
    export: Export, names: _Names, shapes: dict[tuple[int, ...], int], dialect: Dialect
) -> list[dict[str, np.ndarray]]:
    common = ("start", "end", "deviceId", "streamId")
    parts: list[dict[str, np.ndarray]] = []

    def place(name: str) -> dict[str, str]:
        _need(export, name, *common)
        return {
            "start": "start",
            "end": 'COALESCE("end", start)',
            "process": _process_of(export, name),
            "device": "COALESCE(deviceId, 0)",
            "stream": "COALESCE(streamId, 0)",
            "correlation": _or(export, name, "correlationId", -1),
        }

    if _KERNELS in export.columns:
        name = next((c for c in ("demangledName", "shortName") if export.has(_KERNELS, c)), None)
        if name is None:
            _need(export, _KERNELS, "demangledName")
        axes = ("gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ", "registersPerThread")
        columns = place(_KERNELS) | {"name": f"COALESCE({name}, 0)", "node": _or(export, _KERNELS, "graphNodeId", 0)}
        columns |= {axis: _or(export, _KERNELS, axis, -1) for axis in axes}
        kernels = []
        for batch in export.batches(_KERNELS, columns):
            batch["shape"] = _shape_codes(np.column_stack([batch.pop(axis) for axis in axes]), shapes)
            batch["in_graph"] = batch.pop("node") > 0
            kernels.append(_narrow(batch, KERNEL))
        names.of(kernels, "name")
        parts += kernels
    if dialect.graphs and _GRAPHS in export.columns:
        graphs = []
        for batch in export.batches(_GRAPHS, place(_GRAPHS) | {"graph": _or(export, _GRAPHS, "graphId", 0)}):
            graph = batch.pop("graph")
            ids, inverse = np.unique(graph, return_inverse=True)
            codes = np.array([names.add(f"CUDA graph {value}") for value in ids], dtype=np.int32)
            graphs.append(_narrow(batch | {"name": codes[inverse]}, GRAPH))
        parts += graphs
    for kind, name in ((MEMCPY, "CUPTI_ACTIVITY_KIND_MEMCPY"), (MEMSET, "CUPTI_ACTIVITY_KIND_MEMSET")):
        if name not in export.columns:
            continue
        columns = place(name) | {"bytes": _or(export, name, "bytes", -1)}
        if kind == MEMCPY:
            _need(export, name, "copyKind")
            columns |= {"copy": "copyKind"}
            columns |= {column: _or(export, name, column, -1) for column in ("srcKind", "dstKind")}
        columns |= {"node": _or(export, name, "graphNodeId", 0)}
        for batch in export.batches(name, columns):
            batch["in_graph"] = batch.pop("node") > 0
            if kind == MEMCPY:
                batch["direction"] = _mapped(batch.pop("copy"), _COPY)
                source, target = batch.pop("srcKind"), batch.pop("dstKind")
                host = np.where(batch["direction"] == 1, source, np.where(batch["direction"] == 2, target, -1))
                batch["memory"] = _mapped(host, _HOST_MEMORY)
            else:
                batch["direction"] = np.full(len(batch["start"]), 6, dtype=np.int8)
            batch["name"] = np.full(len(batch["start"]), names.add("memcpy" if kind == MEMCPY else "memset"), np.int32)
            parts.append(_narrow(batch, kind))
    return parts


def _narrow(batch: dict[str, np.ndarray], kind: int) -> dict[str, np.ndarray]:
    """The batch with its kind, in columns of their own, so that the block that they were read in can be freed."""
    small = {"device": np.int32, "name": np.int32, "shape": np.int32}
    out = {name: np.array(values, dtype=small.get(name, values.dtype)) for name, values in batch.items()}
    return out | {"kind": np.full(len(batch["start"]), kind, dtype=np.int8)}


def _shape_codes(rows: np.ndarray, shapes: dict[tuple[int, ...], int]) -> np.ndarray:
    """An index for each row of (grid, block, registers), -1 where the grid is unknown; `shapes` grows."""
    weights = np.array([1000003, 998244353, 1000000007, 1000000009, 1000000021, 1000000033, 1000000087], dtype=np.int64)
    mixed = (rows * weights).sum(axis=1)  # wraps around; collisions are told apart below
    _, first, inverse = np.unique(mixed, return_index=True, return_inverse=True)
    if (rows[first][inverse] != rows).any():
        unique, inverse = np.unique(rows, axis=0, return_inverse=True)
    else:
        unique = rows[first]
    codes = [shapes.setdefault(tuple(int(v) for v in row), len(shapes)) if row[0] >= 0 else -1 for row in unique]
    return np.array(codes, dtype=np.int32)[inverse.reshape(-1)]


def _mapped(values: np.ndarray, codes: dict[int, int]) -> np.ndarray:
    out = np.zeros(len(values), dtype=np.int8)
    for found, code in codes.items():
        out[values == found] = code
    return out


def _calls(export: Export, names: _Names, dialect: Dialect) -> list[dict[str, np.ndarray]]:
    parts = []
    for name in (_CALLS, dialect.driver_calls):
        if name is None or name not in export.columns:
            continue
        _need(export, name, "start", "end", "correlationId", "nameId")
        columns = {
            "start": "start",
            "end": 'COALESCE("end", start)',
            "process": _process_of(export, name),
            "thread": _or(export, name, "globalTid", 0),
            "correlation": "COALESCE(correlationId, -1)",
            "name": "COALESCE(nameId, 0)",
        }
        parts += [
            {key: np.array(values, dtype=np.int32 if key == "name" else np.int64) for key, values in batch.items()}
            for batch in export.batches(name, columns)
        ]
    names.of(parts, "name", plain=True)
    return parts


def _last(*tables: list[dict[str, np.ndarray]]) -> int:
    return max((int(part["end"].max()) for parts in tables for part in parts if len(part["end"])), default=0)


def _ranges(export: Export, names: _Names, dialect: Dialect, last: int) -> list[dict[str, np.ndarray]]:
    """Ranges whose name a label can be read from; a range without end lasts to the end of the capture."""
    name = "NVTX_EVENTS"
    if name not in export.columns:
        return []
    _need(export, name, "start", "end", "text")
    likes = " OR ".join(f"{{0}} LIKE '{pattern}'" for pattern in labels.SQL_PATTERNS)
    text = "text" if dialect.null_text else "NULLIF(text, '')"
    if export.has(name, "textId") and "StringIds" in export.columns:
        text = f"COALESCE({text}, (SELECT value FROM StringIds WHERE id = textId))"
        wanted = f"({likes.format('text')} OR textId IN (SELECT id FROM StringIds WHERE {likes.format('value')}))"
    else:
        wanted = likes.format("text")
    kind = f"eventType IN {_RANGE_TYPES} AND" if export.has(name, "eventType") else ""
    thread = "globalTid" if export.has(name, "globalTid") else "0"
    query = f'SELECT start, "end", {thread}, {text} FROM {name} WHERE {kind} start IS NOT NULL AND {wanted}'
    rows = [row for row in export.rows(query) if row[3]]
    if not rows:
        return []
    ends = [row[1] for row in rows]
    # Exports before schema 3 write 0 where an end is missing.
    is_open = [end is None or end < row[0] for row, end in zip(rows, ends, strict=True)]
    threads = np.array([row[2] or 0 for row in rows], dtype=np.int64)
    return [
        {
            "start": np.array([row[0] for row in rows], dtype=np.int64),
            "end": np.array(
                [max(last, row[0]) if cut else row[1] for row, cut in zip(rows, is_open, strict=True)], dtype=np.int64
            ),
            "process": threads >> 24 if thread != "0" else threads,
            "thread": threads,
            "name": np.array([names.add(row[3]) for row in rows], dtype=np.int32),
            "open": np.array(is_open),
        }
    ]


def _processes(export: Export, parts: list[dict[str, np.ndarray]]) -> list[Process]:
    """Processes in the order of their first device, then of their number; columns become indices, in place."""
    device: dict[int, int] = {}
    for part in parts:
        for value in np.unique(part["process"]):
            first = int(part["device"][part["process"] == value].min()) if "device" in part else 1 << 30
            device[int(value)] = min(device.get(int(value), 1 << 30), first)
    order = sorted(device, key=lambda value: (device[value], value))
    values = np.array(sorted(device), dtype=np.int64)
    codes = np.array([order.index(value) for value in sorted(device)], dtype=np.int32)
    for part in parts:
        part["process"] = codes[np.searchsorted(values, part["process"])]
    named = {}
    if export.has("PROCESSES", "globalPid", "name"):
        named = {row[0] >> 24: row[1] for row in export.rows("SELECT globalPid, name FROM PROCESSES") if row[0]}
    return [Process(pid=value & 0xFFFFFF, name=str(named.get(value) or "")) for value in order]


def _device_names(export: Export) -> dict[int, str]:
    if not export.has("TARGET_INFO_GPU", "id", "name"):
        return {}
    return {
        int(row[0]): str(row[1]) for row in export.rows("SELECT id, name FROM TARGET_INFO_GPU") if row[0] is not None
    }


def _epoch(export: Export) -> int | None:
    if not export.has("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"):
        return None
    found = export.value("SELECT utcEpochNs FROM TARGET_INFO_SESSION_START_TIME")
    return int(found) if found else None


def _notes(export: Export) -> tuple[str, ...]:
    notes = []
    if _KERNELS not in export.columns and _GRAPHS not in export.columns:
        notes.append(f"no GPU work: the export has no {_KERNELS} (was nsys run with -t cuda, inside the traced range?)")
    elif _CALLS not in export.columns:
        notes.append(f"no launches: the export has no {_CALLS}, so no kernel can be given to a step")
    if "NVTX_EVENTS" not in export.columns:
        notes.append("no labels: the export has no NVTX_EVENTS (nsys -t nvtx, and a server that labels its steps)")
    return tuple(notes)


def refuse(export: Export, known: str) -> UserError:
    """The message for a schema that no reader knows."""
    return UserError(
        f"{export.path}: nsys export schema {export.schema} (nsys {export.meta.get('EXPORT_PRODUCT_VERSION', '?')}) is "
        f"not known; known are {known}; export the report with an nsys that writes one of these, or update servegauge"
    )


def looks_like_nsys(path: Path, export: Export) -> None:
    """Raise UserError for an sqlite database that nsys did not write."""
    ours = ("CUPTI_ACTIVITY_KIND_", "NVTX_EVENTS", "TARGET_INFO_", "OSRT_API")
    if export.schema is None and not any(name.startswith(ours) for name in export.columns):
        tables = ", ".join(sorted(export.columns)[:8]) or "none at all"
        raise UserError(f"{path}: an sqlite database, but no export of nsys; its tables: {tables}")
