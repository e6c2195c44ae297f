"""From an nsys sqlite export to a Capture.

Names of tables and columns are those of NVIDIA's export. `globalTid` holds host, process and thread in one number:
all but its lowest 24 bits are the process's `globalPid`. Tables are made only for what occurred, so an absent table of
copies means no copies, but an absent table of calls or kernels means that CUDA was not traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from servegauge.base.errors import UserError
from servegauge.traces import labels
from servegauge.traces.capture import (
    DIRECTIONS,
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
from servegauge.traces.sqlite_columns import Codes, narrow, need, or_default, process_of
from servegauge.traces.sqlite_source import Export

_KERNELS = "CUPTI_ACTIVITY_KIND_KERNEL"
_GRAPHS = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
CALLS = "CUPTI_ACTIVITY_KIND_RUNTIME"
_OS_CALLS = "OSRT_API"  # calls to the operating system, which start nothing on a device
_COPY = {1: 1, 2: 2, 8: 3, 9: 4, 10: 5, 11: 1, 12: 2, 13: 3}  # CUpti_ActivityMemcpyKind -> index into DIRECTIONS
_HOST_MEMORY = {0: 2, 1: 1, 4: 3, 6: 3}  # CUpti_ActivityMemoryKind -> index into MEMORIES
_AXES = {
    "gridX": 1, "gridY": 2_147_483_659, "gridZ": 35_184_372_088_891, "blockX": 1_000_003, "blockY": 1_000_000_007,
    "blockZ": 999_999_999_989, "registersPerThread": 7_919,
}  # fmt: skip
"""How a kernel was launched, and what each is multiplied by to tell two launches apart by one number."""
_RANGE_TYPES = (59, 60)  # push/pop and start/end


class _Names:
    """Texts as indices into one list."""

    def __init__(self) -> None:
        self.list: list[str] = []
        self._index: dict[str, int] = {}

    def add(self, text: str) -> int:
        if text not in self._index:
            self._index[text] = len(self.list)
            self.list.append(text)
        return self._index[text]

    def resolve(self, parts: list[dict[str, np.ndarray]], texts: Iterable[str]) -> None:
        """Turn the `name` of each part, an index into `texts`, into one into this list, in place."""
        codes = np.array([self.add(text) for text in texts], dtype=np.int32)
        for part in parts:
            part["name"] = codes[part["name"]]


def read(export: Export, nulls: bool) -> Capture:
    """The capture in `export`. Raises UserError where a table lacks what is needed.

    `nulls`: an absent value is null and a graph may be one row, which is so from schema 3 on.
    """
    names = _Names()
    shapes: dict[tuple[int, ...], int] = {}
    tables: tuple[str, ...] = (CALLS, "CUPTI_ACTIVITY_KIND_DRIVER")
    if not any(name in export.columns for name in tables):  # a process without CUDA
        tables = (_OS_CALLS,)
    operations = _operations(export, names, shapes, nulls)
    threads = Codes()
    calls = _calls(export, names, tables, threads)
    ranges = _ranges(export, names, nulls, threads, _last(operations, calls))
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
        shapes=[Shape((x, y, z), (i, j, k), r if r >= 0 else None) for x, y, z, i, j, k, r in shapes],
        processes=processes,
        device_names=_device_names(export),
        graph_mode="graph" if (found.kind == GRAPH).any() else "node" if found.in_graph.any() else "none",
        epoch_zero_ns=_epoch(export),
        dropped=None,
        notes=_notes(export),
    )


def _operations(
    export: Export, names: _Names, shapes: dict[tuple[int, ...], int], nulls: bool
) -> list[dict[str, np.ndarray]]:
    places = Codes()
    parts: list[dict[str, np.ndarray]] = []

    def batches(name: str, kind: int, /, **more: str) -> Iterator[dict[str, np.ndarray]]:
        need(export, name, "start", "end", "deviceId")
        columns = {
            "start": "start",
            "end": 'COALESCE("end", start)',
            "place": f"(({process_of(export, name)}) << 10) + COALESCE(deviceId, 0)",
            "correlation": or_default(export, name, "correlationId", -1),
        }
        for batch in export.batches(name, columns | more):
            batch["place"] = places.of(batch["place"])
            yield batch | {"kind": np.full(len(batch["start"]), kind, dtype=np.int8)}

    if _KERNELS in export.columns:
        parts += _kernels(export, names, shapes, batches)
    if nulls and _GRAPHS in export.columns:
        graphs = Codes()
        found = []
        for batch in batches(_GRAPHS, GRAPH, name=or_default(export, _GRAPHS, "graphId", 0)):
            found.append(narrow(batch | {"name": graphs.of(batch["name"])}))
        names.resolve(found, [f"CUDA graph {value}" for value in graphs.index])
        parts += found
    if (name := "CUPTI_ACTIVITY_KIND_MEMCPY") in export.columns:
        need(export, name, "copyKind")
        kinds = {column: or_default(export, name, column, -1) for column in ("srcKind", "dstKind")}
        for batch in batches(name, MEMCPY, bytes=or_default(export, name, "bytes", -1), copy="copyKind", **kinds):
            batch["direction"] = _mapped(batch.pop("copy"), _COPY)
            source, target = batch.pop("srcKind"), batch.pop("dstKind")
            host = np.where(batch["direction"] == 1, source, np.where(batch["direction"] == 2, target, -1))
            batch["memory"] = _mapped(host, _HOST_MEMORY)
            parts.append(narrow(batch | {"name": np.full(len(host), names.add("memcpy"), np.int32)}))
    if (name := "CUPTI_ACTIVITY_KIND_MEMSET") in export.columns:
        for batch in batches(name, MEMSET, bytes=or_default(export, name, "bytes", -1)):
            count = len(batch["start"])
            batch["direction"] = np.full(count, DIRECTIONS.index("memset"), dtype=np.int8)
            parts.append(narrow(batch | {"name": np.full(count, names.add("memset"), np.int32)}))
    where = np.array(list(places.index), dtype=np.int64)
    for part in parts:
        place = part.pop("place")
        part["process"], part["device"] = (where >> 10)[place], (where & 1023).astype(np.int16)[place]
    return parts


def _kernels(
    export: Export,
    names: _Names,
    shapes: dict[tuple[int, ...], int],
    batches: Callable[..., Iterator[dict[str, np.ndarray]]],
) -> list[dict[str, np.ndarray]]:
    name = next((column for column in ("demangledName", "shortName") if export.has(_KERNELS, column)), None)
    if name is None:
        need(export, _KERNELS, "demangledName")
    axes = [axis for axis in _AXES if export.has(_KERNELS, axis)]
    node = f"({or_default(export, _KERNELS, 'graphNodeId', 0)} > 0)"
    more = {"row": "rowid", "name": f"(COALESCE({name}, 0) << 1) + {node}"}
    more["shape"] = " + ".join(f"COALESCE({axis}, 0) * {_AXES[axis]}" for axis in axes) or "0"
    ids, launches = Codes(), Codes()
    rows: list[int] = []
    parts = []
    for batch in batches(_KERNELS, KERNEL, **more):
        batch["in_graph"] = (batch["name"] & 1) > 0
        batch["name"] = ids.of(batch["name"] >> 1)
        row = batch.pop("row")
        batch["shape"] = launches.of(batch["shape"])
        for code in range(len(rows), len(launches.index)):
            rows.append(int(row[np.argmax(batch["shape"] == code)]))
        parts.append(narrow(batch))
    names.resolve(parts, export.names(ids.index))
    codes = np.array([_shape(export, axes, row, shapes) for row in rows], dtype=np.int32)
    for part in parts:
        part["shape"] = codes[part["shape"]]
    return parts


def _shape(export: Export, axes: list[str], row: int, shapes: dict[tuple[int, ...], int]) -> int:
    """The index of the launch of one kernel in `shapes`, -1 where the export does not say how it was launched."""
    if "gridX" not in axes:
        return -1
    found = dict(
        zip(axes, export.rows(f"SELECT {', '.join(axes)} FROM {_KERNELS} WHERE rowid = {row}")[0], strict=True)
    )
    key = tuple(-1 if found.get(axis) is None else int(found[axis]) for axis in _AXES)
    return shapes.setdefault(key, len(shapes)) if key[0] >= 0 else -1


def _calls(export: Export, names: _Names, tables: Sequence[str], threads: Codes) -> list[dict[str, np.ndarray]]:
    """The calls of those tables that are there, of more rows than anything else; `threads` codes their globalTid."""
    ids, parts = Codes(), []
    for name in (one for one in tables if one in export.columns):
        need(export, name, "start", "end", "nameId", *(["correlationId"] if name != _OS_CALLS else []))
        columns = {
            "start": "start",
            "end": 'COALESCE("end", start)',
            "thread": or_default(export, name, "globalTid", 0),
            "correlation": or_default(export, name, "correlationId", -1),
            "name": "COALESCE(nameId, 0)",
        }
        for batch in export.batches(name, columns):
            batch["thread"], batch["name"] = threads.of(batch["thread"]), ids.of(batch["name"])
            parts.append(narrow(batch))
    # The thread's number without its lowest 24 bits is that of its process.
    process = np.array(list(threads.index), dtype=np.int64) >> 24
    for part in parts:
        part["process"] = process[part["thread"]]
    names.resolve(parts, [plain_call(text) for text in export.names(ids.index)])
    return parts


def _mapped(values: np.ndarray, codes: dict[int, int]) -> np.ndarray:
    out = np.zeros(len(values), dtype=np.int8)
    for found, code in codes.items():
        out[values == found] = code
    return out


def _last(*tables: list[dict[str, np.ndarray]]) -> int:
    return max((int(part["end"].max()) for parts in tables for part in parts if len(part["end"])), default=0)


def _ranges(export: Export, names: _Names, nulls: bool, codes: Codes, last: int) -> list[dict[str, np.ndarray]]:
    """Ranges whose name a label can be read from; a range without end lasts to the end of the capture."""
    name = "NVTX_EVENTS"
    if name not in export.columns:
        return []
    need(export, name, "start", "end", "text")
    likes = " OR ".join(f"{{0}} LIKE '{pattern}'" for pattern in labels.SQL_PATTERNS)
    text = "text" if nulls else "NULLIF(text, '')"
    if export.has(name, "textId") and "StringIds" in export.columns:
        text = f"COALESCE({text}, (SELECT value FROM StringIds WHERE id = textId))"
        wanted = f"({likes.format('text')} OR textId IN (SELECT id FROM StringIds WHERE {likes.format('value')}))"
    else:
        wanted = likes.format("text")
    kind = f"eventType IN {_RANGE_TYPES} AND" if export.has(name, "eventType") else ""
    thread = "globalTid" if export.has(name, "globalTid") else "0"
    query = f'SELECT start, "end", {thread}, {text} FROM {name} WHERE {kind} start IS NOT NULL AND {wanted}'
    rows = [row for row in export.rows(query) if row[3]]
    if any(not isinstance(value, int | None) for row in rows for value in row[:3]):
        raise UserError(export.no_integer(name, "start, end, globalTid"))
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
            "process": threads >> 24,
            "thread": codes.of(threads),
            "name": np.array([names.add(row[3]) for row in rows], dtype=np.int32),
            "open": np.array(is_open),
        }
    ]


def _processes(export: Export, parts: list[dict[str, np.ndarray]]) -> list[Process]:
    """Processes in the order of their first device, then of their number; columns become indices, in place."""
    device: dict[int, int] = {}
    for part in parts:
        if "device" in part:
            found = part["process"] * 1024 + part["device"]
            pairs = [(value // 1024, value % 1024) for value in pd.unique(found).tolist()]
        else:
            pairs = [(value, 1 << 30) for value in pd.unique(part["process"]).tolist()]
        for value, first in pairs:
            device[value] = min(device.get(value, 1 << 30), first)
    order = sorted(device, key=lambda value: (device[value], value))
    values = np.array(sorted(device), dtype=np.int64)
    codes = np.array([order.index(value) for value in sorted(device)], dtype=np.int16)
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
    if not isinstance(found, int | None):
        raise UserError(export.no_integer("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"))
    return found or None


def _notes(export: Export) -> tuple[str, ...]:
    notes = []
    if _KERNELS not in export.columns and _GRAPHS not in export.columns:
        notes.append(f"no GPU work: the export has no {_KERNELS} (was nsys run with -t cuda, inside the traced range?)")
    elif CALLS not in export.columns:
        notes.append(f"no launches: the export has no {CALLS}, so no kernel can be given to a step")
    if "NVTX_EVENTS" not in export.columns:
        notes.append("no labels: the export has no NVTX_EVENTS (nsys -t nvtx, and a server that labels its steps)")
    return tuple(notes)


def looks_like_nsys(path: Path, export: Export) -> None:
    """Raise UserError for an sqlite database that nsys did not write."""
    ours = ("CUPTI_ACTIVITY_KIND_", "NVTX_EVENTS", "TARGET_INFO_", "OSRT_API")
    if export.schema is None and not any(name.startswith(ours) for name in export.columns):
        tables = ", ".join(sorted(export.columns)[:8]) or "none at all"
        raise UserError(f"{path}: an sqlite database, but no export of nsys; its tables: {tables}")
