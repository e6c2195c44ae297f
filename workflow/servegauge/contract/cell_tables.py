"""What a cell leaves: a row per request, and the tables of its recorders. `..._raw` is the file in its folder.

The dataset's tables have the names of cell and launch beside these columns.
"""

from __future__ import annotations

import pyarrow as pa

from servegauge.contract import metric_registry
from servegauge.contract.columns import KEYS, WORD, column, table_schema

_REQUEST_RAW = (
    *KEYS,
    column("request", pa.int32(), "number of the request in its phase of the workload, from 0", null=False),
    column("request_id", pa.string(), "the X-Request-Id that the server got: another one in every run"),
    column("phase", WORD, "warmup | ramp | window | tail; only the window's are counted", null=False),
    column("instance", pa.int16(), "server instance that it was sent to, from 0", null=False),
    column("worker", pa.int16(), "process of the load generator that sent it, from 0", null=False),
    column("scheduled_ns", pa.int64(), "when it should be sent; closed loop: the stream became free", "ns", null=False),
    column("sent_ns", pa.int64(), "its bytes were handed to the kernel", "ns"),
    column("first_byte_ns", pa.int64(), "first byte of the answer arrived", "ns"),
    column(
        "first_token_ns", pa.int64(), "first chunk with a token arrived; null where the answer came in one piece", "ns"
    ),
    column("first_answer_ns", pa.int64(), "first chunk of the answer itself arrived, after any reasoning", "ns"),
    column("last_ns", pa.int64(), "last chunk with a token arrived", "ns"),
    column("end_ns", pa.int64(), "the answer was complete, its trailer included", "ns"),
    column("chunk_ns", pa.list_(pa.int64()), "arrival of each chunk with a token", "ns", null=False),
    column("chunk_tokens", pa.list_(pa.int32()), "tokens in each chunk; null where that is not known", "tokens"),
    column("connection_reused", pa.bool_(), "sent on a connection that had carried a request before", null=False),
    column("http_status", pa.int16(), "HTTP status; null where no answer came"),
    column(
        "status",
        WORD,
        "ok | http_error | rate_limited | connection_error | timeout | truncated | no_tokens | invalid | cancelled",
        null=False,
    ),
    column("error", pa.string(), "what went wrong, in words"),
    column("finish_reason", pa.string(), "why the server stopped: length, stop, ..."),
    column("prompt_tokens_asked", pa.int32(), "prompt length by the workload", "tokens", null=False),
    column("output_tokens_asked", pa.int32(), "output length asked for", "tokens", null=False),
    column("prompt_tokens", pa.int32(), "prompt length as counted, see tokens_source", "tokens"),
    column("output_tokens", pa.int32(), "output length as counted, see tokens_source", "tokens"),
    column("tokens_source", pa.string(), "usage (the server says) | tokenizer (counted afterwards) | chunks"),
    column("cached_tokens", pa.int32(), "prompt tokens that the server took from a prefix cache", "tokens"),
    column("text_sha256", pa.string(), "SHA-256 of the output text in UTF-8"),
    column("session", pa.int32(), "number of the session that it is of, in the cell; null: it stands alone"),
    column("turn", pa.int32(), "its number in the session, from 0"),
    column("adapter", WORD, "LoRA adapter that it asked for; null: none"),
)

DERIVED = tuple(
    column(metric.column, pa.float64(), metric.stamps or metric.formula, metric.unit)
    for metric in metric_registry.stored()
)
"""Columns that `metrics.derive` adds; null for a request that is not ok (lateness: for one that was never sent)."""

REQUESTS_RAW = table_schema(
    "requests_raw", "One row of raw stamps per request, as the load generator wrote it.", _REQUEST_RAW
)

REQUESTS = table_schema(
    "requests",
    "One row per request: raw stamps, then what is derived from them. Stored in one part per launch.",
    (*_REQUEST_RAW, *DERIVED),
)

_SERVER_METRIC = (
    column("t_ns", pa.int64(), "when the server was asked, on the clock of the requests", "ns", null=False),
    column("instance", pa.int16(), "server instance, from 0", null=False),
    column("metric", WORD, "common name: requests_running, kv_usage, ...; null where there is none for it"),
    column("raw", WORD, "the server's own Prometheus name", null=False),
    column("labels", WORD, "the sample's Prometheus labels as JSON"),
    column("value", pa.float64(), "value of the sample, in the server's own unit; null where it is not a number"),
)

SERVER_METRICS_RAW = table_schema(
    "server_metrics_raw", "What a server reported of itself during one cell.", _SERVER_METRIC
)

SERVER_METRICS = table_schema(
    "server_metrics",
    "What the servers reported of themselves during the cells. Stored in one part per launch.",
    (*KEYS, *_SERVER_METRIC),
)

_GPU = (
    column("t_ns", pa.int64(), "when the GPU was asked, on the clock of the requests", "ns", null=False),
    column("gpu", pa.int16(), "number of the GPU on its node", null=False),
    column("uuid", WORD, "UUID of the GPU"),
    column("sm_clock_mhz", pa.float64(), "clock of the multiprocessors", "MHz"),
    column("memory_clock_mhz", pa.float64(), "clock of the memory", "MHz"),
    column("power_w", pa.float64(), "power drawn", "W"),
    column("temperature_c", pa.float64(), "temperature", "°C"),
    column("utilisation", pa.float64(), "share of the time in which a kernel ran", "1"),
    column("memory_used_bytes", pa.int64(), "memory in use", "bytes"),
    column("throttle_reasons", WORD, "active clock throttle reasons, comma separated; empty: none"),
    column("power_average_w", pa.float64(), "power drawn, as the driver averages it (about a second)", "W"),
    column("energy_j", pa.float64(), "the GPU's energy counter, since its driver was loaded", "J"),
    column("memory_utilisation", pa.float64(), "share of the time in which memory was read or written", "1"),
    column("pcie_tx_bytes", pa.int64(), "counter of bytes sent over PCIe", "bytes"),
    column("pcie_rx_bytes", pa.int64(), "counter of bytes received over PCIe", "bytes"),
    column("nvlink_tx_bytes", pa.int64(), "counter of data bytes sent over all NVLinks", "bytes"),
    column("nvlink_rx_bytes", pa.int64(), "counter of data bytes received over all NVLinks", "bytes"),
    column("ecc_corrected", pa.int64(), "corrected memory errors since the driver was loaded", "errors"),
    column("ecc_uncorrected", pa.int64(), "uncorrected memory errors since the driver was loaded", "errors"),
    column("other_processes", pa.int64(), "processes on the GPU that the launch did not start", "processes"),
    column("source", WORD, "where it is from: nvml, or nvidia-smi where NVML was not there"),
    column("sm_active", pa.float64(), "share of cycles in which a multiprocessor had work, by DCGM", "1"),
    column("tensor_active", pa.float64(), "share of cycles in which the tensor cores worked, by DCGM", "1"),
    column("dram_active", pa.float64(), "share of cycles in which the memory moved data, by DCGM", "1"),
)

GPU_RAW = table_schema("gpu_raw", "State of the GPUs during one cell.", _GPU)

GPU = table_schema("gpu", "State of the GPUs during the cells. Stored in one part per launch.", (*KEYS, *_GPU))

_NODE = (
    column("t_ns", pa.int64(), "when the node was read, on the clock of the requests", "ns", null=False),
    column("cpu_mhz_mean", pa.float64(), "mean clock of the CPUs", "MHz"),
    column("cpu_mhz_min", pa.float64(), "lowest clock of a CPU", "MHz"),
    column("busy_share", pa.float64(), "share of CPU time that was not idle since the row before", "1"),
    column("steal_share", pa.float64(), "share of CPU time that the hypervisor took since the row before", "1"),
    column("load_1min", pa.float64(), "load average over one minute", "processes"),
    column("running", pa.int64(), "processes that wanted a CPU", "processes"),
    column("context_switches", pa.int64(), "context switches of the node since the row before", "switches"),
    column("memory_available_bytes", pa.int64(), "memory available", "bytes"),
    column("temperature_c", pa.float64(), "hottest thermal zone", "°C"),
    column(
        "server_memory_bytes",
        pa.int64(),
        "main memory that the launch's servers hold on this node (RSS); what several processes share counts for each",
        "bytes",
    ),
)

NODE_RAW = table_schema("node_raw", "State of the node's CPUs during one cell.", _NODE)

NODE = table_schema(
    "node", "State of the nodes' CPUs during the cells. Stored in one part per launch.", (*KEYS, *_NODE)
)
