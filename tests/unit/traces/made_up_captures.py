"""A capture whose truth is known, written as nsys exports of three generations and as Chrome traces.

Two ranks do the same, the second SKEW_NS later. All times are ns; Chrome traces write them as microseconds with three
decimals. What each step holds is in the comments; what follows from it stands in the tests, worked out by hand.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from dataclasses import dataclass, field, replace
from pathlib import Path

EPOCH_NS = 1_790_000_000_000_000_000
SKEW_NS = 7_000
GEMM = "void cutlass::gemm_kernel<float>(int)"
REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgs)"
ARGMAX = "void at::native::reduce_kernel<ArgMaxOps>(int)"
ROPE = "void vllm::rotary_embedding_kernel<float>(long const*)"
FLASH = "flash_fwd_splitkv_kernel"
NORM = "void vllm::rms_norm_kernel<float>(float*)"


@dataclass(frozen=True)
class Op:
    kind: str  # kernel | memcpy | memset | graph
    start: int
    end: int
    correlation: int
    name: str = ""
    stream: int = 7
    bytes: int = 0
    copy: str = "HtoD"
    memory: str = "Pinned"
    graph_node: int = 0
    grid: tuple[int, int, int] = (8, 4, 1)


@dataclass(frozen=True)
class Call:
    start: int
    end: int
    correlation: int
    name: str
    thread: int = 0


@dataclass(frozen=True)
class Range:
    start: int
    end: int | None
    name: str
    thread: int = 0


@dataclass
class Rank:
    pid: int
    device: int
    ops: list[Op] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)

    def later(self, ns: int, pid: int, device: int) -> Rank:
        def shift(row):
            return replace(row, start=row.start + ns, end=None if row.end is None else row.end + ns)

        return Rank(pid, device, *([shift(row) for row in rows] for rows in (self.ops, self.calls, self.ranges)))


def rank(graph: str = "node") -> Rank:
    """One rank; its graph's kernels as rows (`node`), or the graph as one row (`graph`)."""
    made = Rank(1000, 0)
    kernel = lambda *a, **k: made.ops.append(Op("kernel", *a, **k))  # noqa: E731
    call = lambda *a: made.calls.append(Call(*a))  # noqa: E731
    label = lambda *a: made.ranges.append(Range(*a))  # noqa: E731
    # Before the first label: the end of a step that the capture cut off. Of no step.
    call(900_000, 905_000, 20, "cudaLaunchKernel")
    kernel(950_000, 1_005_000, 20, GEMM)
    # Step 0, prefill. The all-reduce is hidden for 20 us and exposed for 80; the copy exposed for 60.
    label(1_000_000, 1_400_000, "execute_context_1(100)_generation_0(0)")
    call(1_010_000, 1_015_000, 1, "cudaLaunchKernel")
    kernel(1_020_000, 1_120_000, 1, GEMM)
    call(1_030_000, 1_034_000, 2, "cudaLaunchKernelExC")
    kernel(1_100_000, 1_200_000, 2, REDUCE, stream=9)
    call(1_040_000, 1_043_000, 3, "cudaMemcpyAsync")
    made.ops.append(Op("memcpy", 1_180_000, 1_260_000, 3, stream=11, bytes=8_000))
    # Sampling, after the label, by the driver API.
    call(1_420_000, 1_425_000, 4, "cuLaunchKernel")
    kernel(1_430_000, 1_440_000, 4, ARGMAX)
    # Step 1, mixed: a graph of three kernels on two streams, and a kernel that runs only while step 2 is under way.
    label(1_500_000, 1_800_000, "execute_context_1(50)_generation_1(1)")
    call(1_510_000, 1_520_000, 5, "cudaGraphLaunch")
    if graph == "node":
        kernel(1_530_000, 1_560_000, 5, GEMM, graph_node=101)
        kernel(1_560_000, 1_600_000, 5, NORM, graph_node=102)
        kernel(1_590_000, 1_640_000, 5, FLASH, graph_node=103, stream=9)
    else:
        made.ops.append(Op("graph", 1_530_000, 1_640_000, 5))
    call(1_790_000, 1_795_000, 6, "cudaLaunchKernel")
    kernel(1_920_000, 1_950_000, 6, ROPE)
    # Step 2, decode: the host waits for the GPU, then copies the token back.
    label(1_900_000, 2_100_000, "execute_context_0(0)_generation_2(2)")
    call(1_910_000, 1_915_000, 7, "cudaLaunchKernel")
    kernel(1_960_000, 1_990_000, 7, FLASH)
    call(1_995_000, 2_050_000, 8, "cudaStreamSynchronize")
    call(2_060_000, 2_064_000, 9, "cudaMemcpyAsync")
    made.ops.append(Op("memcpy", 2_070_000, 2_075_000, 9, bytes=16, copy="DtoH", memory="Pageable"))
    # Step 3, without tokens and without work; then an orphan, whose call was not recorded.
    label(2_150_000, 2_160_000, "execute_context_0(0)_generation_0(0)")
    kernel(2_200_000, 2_210_000, 999, GEMM)
    # Step 4, decode, cut off by the end of the capture.
    label(2_300_000, None, "execute_context_0(0)_generation_1(1)")
    call(2_310_000, 2_312_000, 10, "cudaLaunchKernel")
    kernel(2_320_000, 2_340_000, 10, FLASH)
    return made


def ranks(graph: str = "node", count: int = 2) -> list[Rank]:
    first = rank(graph)
    return [first, *(first.later(SKEW_NS * n, first.pid + n, n) for n in range(1, count))]


COPIES = {"HtoD": 1, "DtoH": 2, "DtoD": 8}
MEMORIES = {"Pageable": 0, "Pinned": 1, "Device": 2}

_PLACE = "start INTEGER {n}, end INTEGER {n}, deviceId INTEGER {n}, contextId INTEGER {n}, streamId INTEGER {n}"
_PLACE += ", correlationId INTEGER {d}, globalPid INTEGER {d}"


class Generation:
    """What nsys calls things in one generation of its export's schema."""

    def __init__(self, version: str | None, meta: str | None, nulls: bool, green: bool) -> None:
        self.version, self.meta, self.nulls, self.green = version, meta, nulls, green


GENERATIONS = {
    "2.4.0": Generation("2.4.0", "EXPORT_META_DATA", nulls=False, green=False),
    "unversioned": Generation(None, None, nulls=False, green=False),
    "3.0.0": Generation("3.0.0", "EXPORT_META_DATA", nulls=True, green=False),
    "3.20.3": Generation("3.20.3", "META_DATA_EXPORT", nulls=True, green=True),
}


def write_nsys(path: Path, made: list[Rank], generation: str = "3.20.3", without: tuple[str, ...] = ()) -> Path:
    """An export of that generation; tables named in `without` are left out, as nsys leaves out what did not occur."""
    how = GENERATIONS[generation]
    db = sqlite3.connect(path)
    texts: dict[str, int] = {}
    text_id = lambda text: texts.setdefault(text, len(texts) + 1)  # noqa: E731
    place = _PLACE.format(n="NOT NULL", d="" if how.nulls else "NOT NULL DEFAULT 0")
    place += ", greenContextId INTEGER" if how.green else ""
    rows: dict[str, list[dict]] = {}
    for one in made:
        process = (1 << 48) | (one.pid << 24)
        for op in one.ops:
            table = {"kernel": "KERNEL", "memcpy": "MEMCPY", "memset": "MEMSET", "graph": "GRAPH_TRACE"}[op.kind]
            row = {"start": op.start, "end": op.end, "deviceId": one.device, "contextId": 1, "streamId": op.stream}
            row |= {"correlationId": op.correlation, "globalPid": process}
            node = op.graph_node or (None if how.nulls else 0)
            if op.kind == "kernel":
                row |= {"demangledName": text_id(op.name), "shortName": text_id(op.name.split("(")[0])}
                row |= dict(zip(("gridX", "gridY", "gridZ"), op.grid, strict=True))
                row |= {"blockX": 128, "blockY": 1, "blockZ": 1, "registersPerThread": 64, "graphNodeId": node}
            elif op.kind == "memcpy":
                host, device = MEMORIES[op.memory], MEMORIES["Device"]
                source, target = (host, device) if op.copy == "HtoD" else (device, host)
                row |= {"bytes": op.bytes, "copyKind": COPIES[op.copy], "srcKind": source, "dstKind": target}
                row |= {"graphNodeId": node}
            elif op.kind == "memset":
                row |= {"bytes": op.bytes, "graphNodeId": node}
            else:
                row |= {"graphId": 12}
            rows.setdefault(f"CUPTI_ACTIVITY_KIND_{table}", []).append(row)
        for call in one.calls:
            row = {"start": call.start, "end": call.end, "globalTid": process | (one.pid + call.thread)}
            row |= {"correlationId": call.correlation, "nameId": text_id(f"{call.name}_v7000"), "eventClass": 0}
            rows.setdefault("CUPTI_ACTIVITY_KIND_RUNTIME", []).append(row)
        for number, label in enumerate(one.ranges):
            end = label.end if label.end is not None else None if how.nulls else 0
            row = {"start": label.start, "end": end, "eventType": 59, "globalTid": process | (one.pid + label.thread)}
            # Every other name is a registered string, as NVTX has both.
            registered = number % 2 == 1
            row |= {"text": (None if how.nulls else "") if registered else label.name}
            row |= {"textId": text_id(label.name) if registered else (None if how.nulls else 0)}
            rows.setdefault("NVTX_EVENTS", []).append(row)
        # Ranges of other libraries, which are no steps.
        thread = process | one.pid
        rows.setdefault("NVTX_EVENTS", []).append(
            {"start": 1, "end": 2, "eventType": 59, "globalTid": thread, "text": "aten::mm", "textId": None}
        )
    for table, found in rows.items():
        if table in without:
            continue
        gpu = table.startswith("CUPTI") and not table.endswith("RUNTIME")
        extra = [key for key in found[0] if not gpu or key not in place]
        columns = (f"{place}, " if gpu else "") + ", ".join(f"{_quote(key)}" for key in extra)
        db.execute(f"CREATE TABLE {table} ({columns})")
        for row in found:
            names = ", ".join(_quote(key) for key in row)
            db.execute(f"INSERT INTO {table} ({names}) VALUES ({','.join('?' * len(row))})", list(row.values()))
    db.execute("CREATE TABLE StringIds (id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
    db.executemany("INSERT INTO StringIds VALUES (?, ?)", [(number, text) for text, number in texts.items()])
    db.execute("CREATE TABLE TARGET_INFO_SESSION_START_TIME (utcEpochNs INTEGER, utcTime TEXT, localTime TEXT)")
    db.execute("INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES (?, '', '')", (EPOCH_NS,))
    if how.meta:
        db.execute(f"CREATE TABLE {how.meta} (name TEXT, value TEXT)")
        written = {"EXPORT_PRODUCT_VERSION": "made up", "EXPORT_SCHEMA_VERSION": how.version}
        db.executemany(f"INSERT INTO {how.meta} VALUES (?, ?)", list(written.items()))
    db.commit()
    db.close()
    return path


def _quote(name: str) -> str:
    return f'"{name}"'


def chrome(made: Rank, number: int = 0, last: int = 2_347_000) -> dict:
    """One rank as PyTorch's profiler writes it: `ts` counts from the base time, names of copies say what they are."""
    us = lambda ns: ns / 1000  # noqa: E731

    def event(category: str, name: str, row: Op | Call | Range, pid: int, tid: int, **args) -> dict:
        end = last if row.end is None else row.end
        times = {"ts": us(row.start), "dur": us(end - row.start)}
        return {"ph": "X", "cat": category, "name": name, "pid": pid, "tid": tid, **times, "args": args}

    events = []
    for op in made.ops:
        args = {"device": made.device, "stream": op.stream, "correlation": op.correlation}
        if op.kind == "kernel":
            args |= {"grid": list(op.grid), "block": [128, 1, 1], "registers per thread": 64}
            if "nccl" in op.name:
                args |= {"In msg nelems": 500, "Out msg nelems": 500, "dtype": "BFloat16"}
            events.append(event("kernel", op.name, op, made.device, op.stream, **args))
        elif op.kind == "memcpy":
            ends = (op.memory, "Device") if op.copy == "HtoD" else ("Device", op.memory)
            name = f"Memcpy {op.copy} ({' -> '.join(ends)})"
            events.append(event("gpu_memcpy", name, op, made.device, op.stream, **args, bytes=op.bytes))
    for call in made.calls:
        category = "cuda_driver" if call.name.startswith("cu") and not call.name.startswith("cuda") else "cuda_runtime"
        events.append(event(category, call.name, call, made.pid, made.pid + call.thread, correlation=call.correlation))
    events += [event("user_annotation", r.name, r, made.pid, made.pid + r.thread) for r in made.ranges]
    events += [event("gpu_user_annotation", r.name, r, made.device, 7) for r in made.ranges]
    events.append({"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 1, "tid": 1, "ts": 1000.0, "dur": 1.0})
    events.append({"ph": "M", "name": "process_name", "pid": made.pid, "args": {"name": "engine"}})
    return {
        "schemaVersion": 1,
        "baseTimeNanoseconds": EPOCH_NS,
        "distributedInfo": {"rank": number, "world_size": 2},
        "deviceProperties": [{"id": made.device, "name": "Made Up GPU"}],
        "traceEvents": events,
    }


def write_chrome(folder: Path, made: list[Rank], packed: bool = True) -> list[Path]:
    """One file for each rank."""
    paths = []
    for number, one in enumerate(made):
        data = json.dumps(chrome(one, number)).encode()
        path = folder / f"rank{number}.json{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
        paths.append(path)
    return paths
