"""Tables of a profiler's capture: what a server did on CPU and GPU while it was traced; schemas as in `tables`.

Times are nanoseconds (int64). With requests they are on the requests' clock, 0 at the start of their window; without,
0 is the profiler's own zero, and `traces.clock_source` says so. A phase is null where no step can claim the row, and
everywhere when less than 70 % of the kernels belong to a step; `traces.reason` tells why.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from servegauge.contract.columns import WORD, column, key, table_schema

_PLACE = (
    key("trace", "name of the capture"),
    column("rank", pa.int32(), "process of the server, from 0, in the order of its devices"),
    column("device", pa.int32(), "GPU, as the profiler numbers it; null where nothing ran on one"),
)
_PHASE = column("phase", WORD, "prefill | mixed | decode | idle (a step without tokens); null: of no step")
_PART = column("part", WORD, "forward (called for inside the step's label) | sampling (called for after it)")
_CALLS = column("calls", pa.int64(), "how often", "1", null=False)
_TOTAL = column("total_ns", pa.int64(), "sum of durations", "ns", null=False)

_BREAKDOWN = (
    column("span_ns", pa.int64(), "first start to last end of its GPU operations", "ns"),
    column("gpu_busy_ns", pa.int64(), "union of its GPU operations over all streams", "ns"),
    column("compute_ns", pa.int64(), "union of its kernels, without communication, and memsets", "ns"),
    column("comm_exposed_ns", pa.int64(), "communication while nothing computes", "ns"),
    column("memcpy_exposed_ns", pa.int64(), "copies while nothing computes or communicates", "ns"),
    column("idle_ns", pa.int64(), "span_ns - gpu_busy_ns: the device waits inside the span", "ns"),
)
"""compute + exposed communication + exposed copies + idle = span holds on every row."""

TRACES = table_schema(
    "traces",
    "One row per capture, rank and device: what was captured, how far it can be trusted, and the device's whole time.",
    [
        *_PLACE,
        column("device_name", WORD, "what the capture calls the device"),
        column("profiler", WORD, "nsys | torch", null=False),
        column("version", WORD, "version of the profiler, as the file says it"),
        column("schema", WORD, "version of the file's schema, as the file says it"),
        column("file", pa.string(), "name of the file that was read", null=False),
        column(
            "graph_mode", WORD, "none | graph (a graph is one row) | node (a row per kernel); never compared", "", False
        ),
        column("ranks", pa.int32(), "processes with GPU work in the capture", "processes", null=False),
        column(
            "clock_source", WORD, "how its clock was joined to the requests: marker | epoch | calls | none", null=False
        ),
        column(
            "clock_error_ns",
            pa.int64(),
            "that join is off by no more than this; null where that was not measured",
            "ns",
        ),
        column("epoch_offset_ns", pa.int64(), "add to a time of these tables for Unix time; null where unknown", "ns"),
        column("steps", pa.int64(), "steps of the rank", "steps", null=False),
        column("kernels", pa.int64(), "kernels on the device; a graph that is one row counts once", "1", null=False),
        column("kernels_attributed", pa.int64(), "kernels that a step launched", "1", null=False),
        column("attributed_share", pa.float64(), "kernels_attributed / kernels; null without kernels", "1"),
        column("dropped", pa.int64(), "events that the profiler says it lost; null where it does not say", "1"),
        *_BREAKDOWN,
        column("overhead_ratio", pa.float64(), "traced / timed TPOT; null for a capture without its timed cell", "1"),
        column("phase_source", WORD, "annotated (labels) | inferred (from the work itself) | none", null=False),
        column("reason", pa.string(), "what this capture cannot answer, and why"),
    ],
)

STEPS = table_schema(
    "steps",
    "One row per engine step, rank and device. A kernel belongs to the step whose host called for it, whenever it ran.",
    [
        *_PLACE,
        column("step", pa.int64(), "number of the step in its rank, from 0", null=False),
        _PHASE,
        column("label", pa.string(), "the label that the step was read from; null where it was inferred"),
        column("context_requests", pa.int64(), "requests in prefill", "requests"),
        column("context_tokens", pa.int64(), "their tokens of this step", "tokens"),
        column("generation_requests", pa.int64(), "requests in decode", "requests"),
        column("generation_tokens", pa.int64(), "their tokens of this step", "tokens"),
        column("start_ns", pa.int64(), "the host began the step", "ns", null=False),
        column(
            "end_ns",
            pa.int64(),
            "the next step began; before a pause: its last call and operation ended",
            "ns",
            null=False,
        ),
        column("cut", pa.bool_(), "the capture began or ended inside this step", null=False),
        column("cpu_ns", pa.int64(), "duration of the label: the forward pass as the host sees it; null if cut", "ns"),
        column("gpu_start_ns", pa.int64(), "start of its first GPU operation", "ns"),
        column("gpu_end_ns", pa.int64(), "end of its last GPU operation", "ns"),
        *_BREAKDOWN,
        column(
            "sampling_cpu_ns",
            pa.int64(),
            "after the label to its last call, and ranges of sampling; null where the label holds all",
            "ns",
        ),
        column("sampling_gpu_ns", pa.int64(), "union of the operations that were called for then", "ns"),
        column("kernels", pa.int64(), "kernels of the step", "1"),
        column("launches", pa.int64(), "API calls that launched kernels, graphs included", "1"),
        column("graph_launches", pa.int64(), "API calls that launched a graph", "1"),
    ],
)

KERNELS = table_schema(
    "kernels",
    "One row per kernel name, phase and part of the step.",
    [
        *_PLACE,
        _PHASE,
        _PART,
        column("kernel", pa.string(), "name, as the profiler gives it", null=False),
        column("kind", WORD, "gemm | attention | norm | rope | sampling | moe | collective | copy | other", null=False),
        _CALLS,
        _TOTAL,
        column("p50_ns", pa.int64(), "median duration", "ns", null=False),
        column("p99_ns", pa.int64(), "99 % quantile of the duration", "ns", null=False),
        column("share", pa.float64(), "total_ns / that of all kernels of the rank, device and phase", "1", null=False),
        column("grid", WORD, "most frequent grid, XxYxZ"),
        column("block", WORD, "its block, XxYxZ"),
        column("registers", pa.int32(), "its registers a thread", "1"),
    ],
)

COPIES = table_schema(
    "copies",
    "One row per direction, kind of memory and phase.",
    [
        *_PLACE,
        _PHASE,
        column("direction", WORD, "HtoD | DtoH | DtoD | HtoH | PtoP | memset | other", null=False),
        column("memory", WORD, "the host's side: pinned | pageable | managed; null without one"),
        _CALLS,
        column("bytes", pa.int64(), "bytes together", "bytes"),
        _TOTAL,
        column("gb_s", pa.float64(), "bytes / total_ns, 10^9 bytes per second", "GB/s"),
    ],
)

COLLECTIVES = table_schema(
    "collectives",
    "One row per kind of collective and phase.",
    [
        *_PLACE,
        _PHASE,
        column("kind", WORD, "all_reduce | all_gather | reduce_scatter | broadcast | all_to_all | ...", null=False),
        _CALLS,
        column("bytes", pa.int64(), "bytes of the messages together; null where one is not known", "bytes"),
        _TOTAL,
        column("exposed_ns", pa.int64(), "of their union, while nothing computes on the device", "ns", null=False),
        column("skew_p50_ns", pa.int64(), "median of last - first start over ranks; null: one rank or unmatched", "ns"),
        column("skew_max_ns", pa.int64(), "largest such difference", "ns"),
    ],
)

GAPS = table_schema(
    "gaps",
    "Why the device was idle: each gap between two operations, split by what the next one waited for.",
    [
        *_PLACE,
        _PHASE,
        column(
            "cause",
            WORD,
            "host_late (not yet called for) | synchronisation (the host waited for the GPU meanwhile) | launch_call "
            "(inside the API call) | device (called for, not started) | unattributed (no call is known)",
            null=False,
        ),
        column("calls", pa.int64(), "gaps with a part of this cause", "1", null=False),
        _TOTAL,
    ],
)

LAUNCHES = table_schema(
    "launches",
    "One row per API call's name and phase.",
    [
        *_PLACE,
        _PHASE,
        column("call", WORD, "name of the API call", null=False),
        _CALLS,
        _TOTAL,
        column("api_p50_ns", pa.int64(), "median duration of the call", "ns", null=False),
        column("api_p99_ns", pa.int64(), "99 % quantile", "ns", null=False),
        column("queue_p50_ns", pa.int64(), "median of start of its first operation - start of the call", "ns"),
        column("queue_p99_ns", pa.int64(), "99 % quantile; null where the call starts nothing", "ns"),
    ],
)

REQUEST_STEPS = table_schema(
    "request_steps",
    "One row per request and step that overlap in time; empty where the clocks could not be joined.",
    [
        key("trace", "name of the capture"),
        column("rank", pa.int32(), "rank of the steps"),
        column("request", pa.int32(), "number of the request, as in requests", null=False),
        column("step", pa.int64(), "number of the step", null=False),
        _PHASE,
        column("membership", WORD, "time: the step overlaps the request; the engine names no requests", null=False),
        column("overlap_ns", pa.int64(), "time that both were under way", "ns", null=False),
        column("queue_ns", pa.int64(), "sent until a step with prefill began; the same in each row of a request", "ns"),
        column("prefill_steps", pa.int64(), "steps with prefill that overlap the request", "steps", null=False),
        column("decode_steps", pa.int64(), "steps with decode that overlap the request", "steps", null=False),
    ],
)

_PART_NS = "null where it is unknown: its time is then in the part that `reason` names, or all are null"

REQUEST_TTFT = table_schema(
    "request_ttft",
    "One row per request whose first token the capture saw: the parts of its TTFT, which add up to it exactly.",
    [
        key("trace", "name of the capture"),
        column("rank", pa.int32(), "rank whose steps and device the parts are of"),
        column("request", pa.int32(), "number of the request, as in requests", null=False),
        column(
            "membership",
            WORD,
            "how its steps were found: tokens (the labels' tokens, in the order of sending) | time (one step with "
            "prefill between its sending and its first token); null: they were not",
        ),
        column("prefill_steps", pa.int32(), "steps that held its prefill", "steps"),
        column("ttft_ns", pa.int64(), "first token - sent, of the traced run", "ns", null=False),
        column("client_ns", pa.int64(), f"sent until the head of the answer came; {_PART_NS}", "ns"),
        column("queue_ns", pa.int64(), "from there until the first step with its prefill began", "ns"),
        column(
            "cpu_ns", pa.int64(), "until its prefill's last operation: the GPU idle, the host late or waiting", "ns"
        ),
        column("launch_gap_ns", pa.int64(), "the GPU idle, its next operation being launched", "ns"),
        column("kernels_ns", pa.int64(), "the GPU busy, but for sampling; other requests' work included", "ns"),
        column("sampling_ns", pa.int64(), "sampling's operations, and the GPU idle before them", "ns"),
        column("unattributed_ns", pa.int64(), "the GPU idle before operations whose call is not known", "ns"),
        column("return_ns", pa.int64(), "from there until its first token was at the client", "ns"),
        column("reason", pa.string(), "what is unknown, and why"),
    ],
)

TRACE_TABLES: dict[str, pa.Schema] = {
    "traces": TRACES,
    "steps": STEPS,
    "kernels": KERNELS,
    "copies": COPIES,
    "collectives": COLLECTIVES,
    "gaps": GAPS,
    "launches": LAUNCHES,
    "request_steps": REQUEST_STEPS,
    "request_ttft": REQUEST_TTFT,
}
"""Every table of a capture, in the order of the documentation."""

TRACED = table_schema(
    "traces",
    "One row per trace that was asked for or is under results/traces/, whatever became of it.",
    [
        key("trace", "name of the trace, a folder in results/traces/"),
        column("cell", WORD, "timed cell whose load was replayed; null for a capture without one"),
        column("launch", WORD, "the trace's own launch: a server that was started under the profiler"),
        column("attempt", pa.int32(), "attempt of that launch"),
        column("platform", WORD, "where it ran, a file in config/platforms/"),
        column("condition", pa.string(), "its load, in words"),
        column("profiler", WORD, "nsys | torch"),
        column("status", WORD, "ok | failed | skipped (cannot work) | planned (not run yet)", null=False),
        column("reason", pa.string(), "why there is no trace"),
        column("started_utc", pa.string(), "start of the traced load, ISO 8601"),
        column("finished_utc", pa.string(), "its end, ISO 8601"),
        column("tpot_p50_s", pa.float64(), "median TPOT under the profiler: never a latency of the cell", "s"),
    ],
)

IN_DATASET: dict[str, pa.Schema] = {
    f"trace_{'captures' if name == 'traces' else name}": schema for name, schema in TRACE_TABLES.items()
}
"""The same tables as results/dataset/ names them, each a folder of one Parquet file per trace."""

STEP_COLUMNS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "prefill": {"cpu_s": ("cpu_ns",), "gpu_s": ("gpu_end_ns", "gpu_start_ns")},
    "decode": {"cpu_s": ("cpu_ns",), "gpu_s": ("gpu_end_ns", "gpu_start_ns")},
    "sampling": {"cpu_s": ("sampling_cpu_ns",), "gpu_s": ("sampling_gpu_ns",)},
}
"""Phase -> duration of a step that is published of it -> its column of STEPS, or the two whose difference it is."""
