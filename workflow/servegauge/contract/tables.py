"""The dataset's tables: one pyarrow schema each, with a description and a unit beside every column.

The schemas are the only place where columns are declared. Writers conform to them, readers check against them, and
`docs/data-dictionary.md` is printed from them.

Conventions: `_s` seconds (float64), `_ns` nanoseconds (int64, monotonic, 0 = start of the cell's window), `_rps`
requests per second, `_tokens` tokens. Undefined is null, never 0 or NaN. Words that repeat are dictionary-encoded.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from servegauge.contract import metric_registry
from servegauge.contract.activity import COLUMNS as ACTIVITY
from servegauge.contract.columns import KEYS, VERSION, WORD, WORDS, SchemaError, conform, from_rows
from servegauge.contract.columns import column as _column
from servegauge.contract.columns import key as _key
from servegauge.contract.columns import table_schema as _schema
from servegauge.contract.comparison_tables import COMPARISON, EXPECTATIONS, PROBE_COMPARISON, VARIANCE
from servegauge.contract.economics_table import ECONOMICS
from servegauge.contract.study_tables import (
    LOOKS,
    QUALITY,
    STUDIES,
    STUDY,
    STUDY_CELLS,
    STUDY_MODELS,
    STUDY_PLATFORMS,
)
from servegauge.contract.trace_tables import TRACED

__all__ = ["PARTED", "TABLES", "VERSION", "WORD", "WORDS", "SchemaError", "conform", "from_rows"]

_CELL, _LAUNCH = KEYS

_SERVER_FACTORS = (
    _column("configuration", WORD, "id of the launch without its repeat: launches that share it are repeats"),
    _column("framework", WORD, "what serves: a file in servegauge/frameworks/"),
    _column("model", WORD, "name of the model, a file in config/models/"),
    _column("platform", WORD, "where it ran, a file in config/platforms/"),
    _column("tp", pa.int32(), "tensor parallel size", "GPUs"),
    _column("pp", pa.int32(), "pipeline parallel size", "GPUs"),
    _column("dp", pa.int32(), "data parallel size", "GPUs"),
    _column("ep", pa.int32(), "expert parallel size", "GPUs"),
    _column("instances", pa.int32(), "independent servers that share the load", "servers"),
    _column("share_gpu", pa.bool_(), "all instances run on the GPUs of one"),
    _column("repeat", pa.int32(), "which repetition of the configuration, from 1"),
    _column("options", pa.string(), "neutral server options as JSON, keys sorted"),
)

LAUNCHES = _schema(
    "launches",
    "One row per launch: what the server is, and what became of it.",
    [
        _LAUNCH,
        *_SERVER_FACTORS,
        _column("extra_args", WORDS, "arguments given to the server verbatim"),
        _column("environment", pa.string(), "environment variables that the study sets, as JSON"),
        _column("gpus", pa.int32(), "GPUs of the whole launch", "GPUs"),
        _column("joined", WORD, "label of the place that `servegauge join` brought it from; null: measured here"),
        _column("status", WORD, "ok | failed | planned (no attempt yet)", null=False),
        _column("reason", pa.string(), "why the last attempt failed"),
        _column("attempts", pa.int32(), "finished attempts; `attempts` has a row for each", "attempts", null=False),
        _column("framework_version", WORD, "what the server of the last attempt says of its version"),
        _column("startup_s", pa.float64(), "process start until it answered, in the last attempt", "s"),
    ],
)

ALLOCATION = (
    _column("job_s", pa.float64(), "from its start to its end; the job has the node, and its GPUs, for so long", "s"),
    _column("starts_s", pa.float64(), "of that: servers starting, until they answered, all starts", "s"),
    _column("cells_s", pa.float64(), "of that: cells, with resets, warm-up, ramp, window, tail and saving", "s"),
    _column("windows_s", pa.float64(), "of that: the windows of its cells, of a search those of all its rates", "s"),
    _column("resets_s", pa.float64(), "of cells_s: resetting prefix caches", "s"),
    _column("calibration_s", pa.float64(), "of job_s: calibrating, but for what went on while servers started", "s"),
    _column("idle_power_s", pa.float64(), "of job_s: reading the power of GPUs with nothing to do", "s"),
)
"""Columns of ATTEMPTS. What they leave of `job_s` is idle: checks, evidence and records, questions, ending."""

ATTEMPTS = _schema(
    "attempts",
    "One row per finished attempt of a launch: when, where, what happened, and everything that is known of it.",
    [
        _LAUNCH,
        _column(
            "attempt", pa.int32(), "number of the attempt, from 0; cells name the one that measured them", null=False
        ),
        _column("study", WORD, "study that asked for it"),
        _column("status", WORD, "ok | failed | damaged: its file cannot be read", null=False),
        _column("reason", pa.string(), "why it failed, or stopped early"),
        _column("started_utc", pa.string(), "start, ISO 8601"),
        _column("finished_utc", pa.string(), "end, ISO 8601"),
        _column("hostname", WORD, "node that it ran on"),
        _column("job", pa.string(), "job of the scheduler, as JSON"),
        _column("framework_version", WORD, "what the server says of its version"),
        _column("server_starts", pa.int32(), "times that the server was started", "starts"),
        _column("startup_s", pa.float64(), "process start until it answered, slowest instance, first start", "s"),
        _column("startup_parts", pa.string(), "parts of the start-up in seconds as JSON, where the server tells them"),
        _column(
            "compile_cache", WORD, "cold | warm: with what a server of this configuration had compiled, first start"
        ),
        _column(
            "settings",
            pa.string(),
            "of each option and choice of the server what was asked and what is in effect, as JSON",
        ),
        *ALLOCATION,
        _column("flags", WORDS, "what the server says of itself against what was asked; empty: no difference"),
        _column("provenance", pa.string(), "launch.json of the attempt: everything known of it, as JSON"),
    ],
)


def _summary_columns() -> Iterator[pa.Field]:
    """What `metrics.summarise` gives: a column per number, a mean and quantiles with intervals per distribution."""
    for metric in metric_registry.per_cell():
        yield _column(metric.column, pa.int32() if metric.whole else pa.float64(), metric.formula, metric.unit)
    for metric in metric_registry.distributions():
        name, formula, unit = metric.name, metric.formula, metric.unit
        of = " of answered requests" if metric.failed_is_infinite else ""
        yield _column(metric.column_of("mean"), pa.float64(), f"mean of {name}{of}: {formula}", unit)
        for which, share in metric.quantiles.items():
            text = f"{share:.0%} quantile of {name}"
            low, high = (f"{end} end of the 95 % interval of the {text}" for end in ("lower", "upper"))
            yield _column(metric.column_of(which), pa.float64(), f"{text}: {formula}", unit)
            yield _column(metric.column_of(f"{which}_low"), pa.float64(), low, unit)
            yield _column(metric.column_of(f"{which}_high"), pa.float64(), high, unit)


SUMMARY = tuple(_summary_columns())
"""Columns of CELLS that `metrics.summarise` computes from the window's requests."""

_OF_STEP = (
    *("requests", "requests_ok", "window_s", "offered_rps", "achieved_rps", "output_tokens_per_s"),
    *(f"{latency}_{which}_s" for latency in ("ttft", "tpot", "e2e") for which in ("p50", "p99")),
)

INSTRUMENT = (
    *(
        _column(
            metric.error_column(which),
            pa.float64(),
            f"{metric.title} {which}: reported - true, at the nearest load",
            metric.unit,
        )
        for metric, which in metric_registry.calibrated()
    ),
    _column("instrument_load", pa.string(), "the calibrated load nearest to the cell's, as JSON"),
    _column("instrument_cpu_s", pa.float64(), "CPU time of the load generator in the window", "s"),
    _column("instrument_workers", pa.int32(), "processes of the load generator", "processes"),
)
"""Columns of CELLS about the load generator's own error, calibrated on the cell's node before the launch."""

CELLS = _schema(
    "cells",
    "One row per cell of every study, whatever became of it, with its factors and its summary.",
    [
        _CELL,
        _LAUNCH,
        *_SERVER_FACTORS,
        _column("prompts", WORD, "name of the prompt set, a file in config/prompts/"),
        _column("rate_rps", pa.float64(), "offered rate asked for; null for a closed loop", "1/s"),
        _column("concurrency", pa.int32(), "streams of a closed loop; null for an open loop", "streams"),
        _column("burst", pa.int32(), "requests sent at once to an idle server; null for the others", "requests"),
        _column("capacity", WORD, "SLO whose capacity the cell searched, at many rates; null for the others"),
        _column("loop", WORD, "open (at a rate) | closed (streams) | burst (all at once)"),
        _column(
            "arrival", WORD, "arrival process: poisson | constant | gamma | burst | replay | steps | ramp | closed"
        ),
        _column("cache", WORD, "prefix cache at the start of the window: cold | warm"),
        _column("sampling", WORD, "sampling settings of the requests as JSON, keys sorted: temperature, top_p, ..."),
        _column("load", pa.string(), "the whole load as JSON, keys sorted"),
        _column("workload", WORD, "id of the frozen workload that was replayed"),
        _column("workload_sha256", pa.string(), "SHA-256 of the workload's bytes"),
        _column(
            "status", WORD, "ok | failed | skipped (cannot work, known before) | planned (not run yet)", null=False
        ),
        _column("reason", pa.string(), "why it failed (last attempt) or was skipped"),
        _column("attempt", pa.int32(), "attempt of the launch that measured it, or that failed last"),
        _column("server", pa.int32(), "which of its launch's servers measured it, from 0; a launch should have one"),
        _column("log", pa.string(), "where to look for a failed cell, relative to the repository"),
        _column("started_utc", pa.string(), "start of the cell, ISO 8601"),
        _column("finished_utc", pa.string(), "end of the cell, ISO 8601"),
        _column("reset_s", pa.float64(), "resetting the servers' prefix caches took so long, all resets of it", "s"),
        _column("epoch_offset_ns", pa.int64(), "add to a stamp of this cell for Unix time, from the start", "ns"),
        _column("clock_drift_ns", pa.int64(), "epoch offset at the end - at the start", "ns"),
        _column("flags", WORDS, "names of the validity flags that were raised; empty: none", null=False),
        _column("flag_details", pa.string(), "each flag with value, threshold and detail, as JSON"),
        _column("texts_sha256", pa.string(), "SHA-256 over the window's output texts in order; equal: same texts"),
        _column("cell_sha256", pa.string(), "SHA-256 of the cell's cell.json, which holds those of its files"),
        _column("p99_supported", pa.bool_(), "the sample carries a 95 % interval of p99: 368 requests ok or more"),
        _column(
            "protocol",
            pa.int16(),
            "version of the measuring protocol (docs/instrument.md); numbers of two protocols are never compared",
        ),
        _column(
            "censored",
            WORDS,
            "quantiles that are null because more requests failed than they leave out: larger than the timeout; "
            "capacity_rps, where every rate that was tried attained, or none: see capacity_low_rps, capacity_high_rps",
        ),
        _column("acceptance_reason", WORD, "why acceptance_length is null"),
        _column("capacity_low_rps", pa.float64(), "highest rate that attained; null: none did, or none asked", "1/s"),
        _column("capacity_high_rps", pa.float64(), "lowest rate that did not attain; null: each did", "1/s"),
        _column(
            "energy_source", WORD, "what energy is known from: counter (the GPUs' own) | power (sampled, integrated)"
        ),
        _column(
            "energy_error",
            pa.float64(),
            "what sampling may have missed of the energy, as a share of it: of counters at most the steps at the "
            "window's ends; of power, what leaving out every second sample changes",
            "1",
        ),
        *SUMMARY,
        *ACTIVITY,
        *INSTRUMENT,
    ],
)

CELL_SLOS = _schema(
    "cell_slos",
    "Goodput of each measured cell under each SLO that a study names.",
    [
        STUDY,
        _CELL,
        _key("slo", "name of the SLO in the study"),
        _column("limits", pa.string(), "upper limits of the SLO as JSON, for example ttft_s"),
        *(
            _column(metric.column, pa.int32() if metric.whole else pa.float64(), metric.formula, metric.unit)
            for metric in metric_registry.per_slo()
        ),
    ],
)

CAPACITY_STEPS = _schema(
    "capacity_steps",
    "One row per rate that a search for the capacity tried. Stored in one part per launch.",
    [
        _CELL,
        _LAUNCH,
        _column("step", pa.int16(), "number of the rate in the order of trying, from 0", null=False),
        _column("slo", WORD, "name of the SLO in the study", null=False),
        _column("rate_rps", pa.float64(), "rate asked for", "1/s", null=False),
        _column("attained", pa.bool_(), "enough requests surely met the SLO, and the queue did not grow", null=False),
        _column("attained_low", pa.float64(), "lower 95 % bound of attained_share (Clopper-Pearson)", "1", null=False),
        _column("saturated", pa.bool_(), "the queue grew over the window: the flag `saturated`", null=False),
        *(
            _column(metric.column, pa.int32() if metric.whole else pa.float64(), metric.formula, metric.unit)
            for metric in metric_registry.per_slo()
        ),
        *(field for field in SUMMARY if field.name in _OF_STEP),
        _column("ramp_s", pa.float64(), "time under load before the window", "s"),
        _column("started_utc", pa.string(), "start of the load, ISO 8601"),
        _column("flags", WORDS, "names of the flags that this rate's load raised", null=False),
    ],
)

_REQUEST_RAW = (
    _CELL,
    _LAUNCH,
    _column("request", pa.int32(), "number of the request in its phase of the workload, from 0", null=False),
    _column("request_id", pa.string(), "what the server was told as X-Request-Id: another one in every run"),
    _column("phase", WORD, "warmup | ramp | window | tail; only the window's are counted", null=False),
    _column("instance", pa.int16(), "server instance that it was sent to, from 0", null=False),
    _column("worker", pa.int16(), "process of the load generator that sent it, from 0", null=False),
    _column(
        "scheduled_ns", pa.int64(), "when it should be sent; closed loop: the stream became free", "ns", null=False
    ),
    _column("sent_ns", pa.int64(), "its bytes were handed to the kernel", "ns"),
    _column("first_byte_ns", pa.int64(), "first byte of the answer arrived", "ns"),
    _column(
        "first_token_ns", pa.int64(), "first chunk with a token arrived; null where the answer came in one piece", "ns"
    ),
    _column("first_answer_ns", pa.int64(), "first chunk of the answer itself arrived, after any reasoning", "ns"),
    _column("last_ns", pa.int64(), "last chunk with a token arrived", "ns"),
    _column("end_ns", pa.int64(), "the answer was complete, its trailer included", "ns"),
    _column("chunk_ns", pa.list_(pa.int64()), "arrival of each chunk with a token", "ns", null=False),
    _column("chunk_tokens", pa.list_(pa.int32()), "tokens in each chunk; null where that cannot be told", "tokens"),
    _column("connection_reused", pa.bool_(), "sent on a connection that had carried a request before", null=False),
    _column("http_status", pa.int16(), "HTTP status; null where no answer came"),
    _column(
        "status",
        WORD,
        "ok | http_error | rate_limited | connection_error | timeout | truncated | no_tokens | invalid | cancelled",
        null=False,
    ),
    _column("error", pa.string(), "what went wrong, in words"),
    _column("finish_reason", pa.string(), "why the server stopped: length, stop, ..."),
    _column("prompt_tokens_asked", pa.int32(), "prompt length by the workload", "tokens", null=False),
    _column("output_tokens_asked", pa.int32(), "output length asked for", "tokens", null=False),
    _column("prompt_tokens", pa.int32(), "prompt length as counted, see tokens_source", "tokens"),
    _column("output_tokens", pa.int32(), "output length as counted, see tokens_source", "tokens"),
    _column("tokens_source", pa.string(), "usage (the server says) | tokenizer (counted afterwards) | chunks"),
    _column("cached_tokens", pa.int32(), "prompt tokens that the server took from a prefix cache", "tokens"),
    _column("text_sha256", pa.string(), "SHA-256 of the output text in UTF-8"),
    _column("session", pa.int32(), "number of the session that it is of, in the cell; null: it stands alone"),
    _column("turn", pa.int32(), "its number in the session, from 0"),
    _column("adapter", WORD, "LoRA adapter that it asked for; null: none"),
)

DERIVED = tuple(
    _column(metric.column, pa.float64(), metric.stamps or metric.formula, metric.unit)
    for metric in metric_registry.stored()
)
"""Columns that `metrics.derive` adds; null for a request that is not ok (lateness: for one that was never sent)."""

REQUESTS_RAW = _schema(
    "requests_raw", "One row of raw stamps per request, as the load generator wrote it.", _REQUEST_RAW
)

REQUESTS = _schema(
    "requests",
    "One row per request: raw stamps, then what is derived from them. Stored in one part per launch.",
    (*_REQUEST_RAW, *DERIVED),
)

_SERVER_METRIC = (
    _column("t_ns", pa.int64(), "when the server was asked, on the clock of the requests", "ns", null=False),
    _column("instance", pa.int16(), "server instance, from 0", null=False),
    _column("metric", WORD, "common name: requests_running, kv_usage, ...; null where there is none for it"),
    _column("raw", WORD, "the server's own Prometheus name", null=False),
    _column("labels", WORD, "the sample's Prometheus labels as JSON"),
    _column("value", pa.float64(), "value of the sample, in the server's own unit; null where it is not a number"),
)

SERVER_METRICS_RAW = _schema("server_metrics_raw", "What a server said of itself during one cell.", _SERVER_METRIC)

SERVER_METRICS = _schema(
    "server_metrics",
    "What the servers said of themselves during the cells. Stored in one part per launch.",
    (_CELL, _LAUNCH, *_SERVER_METRIC),
)

_GPU = (
    _column("t_ns", pa.int64(), "when the GPU was asked, on the clock of the requests", "ns", null=False),
    _column("gpu", pa.int16(), "number of the GPU on its node", null=False),
    _column("uuid", WORD, "UUID of the GPU"),
    _column("sm_clock_mhz", pa.float64(), "clock of the multiprocessors", "MHz"),
    _column("memory_clock_mhz", pa.float64(), "clock of the memory", "MHz"),
    _column("power_w", pa.float64(), "power drawn", "W"),
    _column("temperature_c", pa.float64(), "temperature", "°C"),
    _column("utilisation", pa.float64(), "share of the time in which a kernel ran", "1"),
    _column("memory_used_bytes", pa.int64(), "memory in use", "bytes"),
    _column("throttle_reasons", WORD, "active clock throttle reasons, comma separated; empty: none"),
    _column("power_average_w", pa.float64(), "power drawn, as the driver averages it (about a second)", "W"),
    _column("energy_j", pa.float64(), "the GPU's energy counter, since its driver was loaded", "J"),
    _column("memory_utilisation", pa.float64(), "share of the time in which memory was read or written", "1"),
    _column("pcie_tx_bytes", pa.int64(), "counter of bytes sent over PCIe", "bytes"),
    _column("pcie_rx_bytes", pa.int64(), "counter of bytes received over PCIe", "bytes"),
    _column("nvlink_tx_bytes", pa.int64(), "counter of data bytes sent over all NVLinks", "bytes"),
    _column("nvlink_rx_bytes", pa.int64(), "counter of data bytes received over all NVLinks", "bytes"),
    _column("ecc_corrected", pa.int64(), "corrected memory errors since the driver was loaded", "errors"),
    _column("ecc_uncorrected", pa.int64(), "uncorrected memory errors since the driver was loaded", "errors"),
    _column("other_processes", pa.int64(), "processes on the GPU that the launch did not start", "processes"),
    _column("source", WORD, "who told: nvml, or nvidia-smi where NVML was not there"),
    _column("sm_active", pa.float64(), "share of cycles in which a multiprocessor had work, by DCGM", "1"),
    _column("tensor_active", pa.float64(), "share of cycles in which the tensor cores worked, by DCGM", "1"),
    _column("dram_active", pa.float64(), "share of cycles in which the memory moved data, by DCGM", "1"),
)

GPU_RAW = _schema("gpu_raw", "State of the GPUs during one cell.", _GPU)

GPU = _schema("gpu", "State of the GPUs during the cells. Stored in one part per launch.", (_CELL, _LAUNCH, *_GPU))

_NODE = (
    _column("t_ns", pa.int64(), "when the node was read, on the clock of the requests", "ns", null=False),
    _column("cpu_mhz_mean", pa.float64(), "mean clock of the CPUs", "MHz"),
    _column("cpu_mhz_min", pa.float64(), "lowest clock of a CPU", "MHz"),
    _column("busy_share", pa.float64(), "share of CPU time that was not idle since the row before", "1"),
    _column("steal_share", pa.float64(), "share of CPU time that the hypervisor took since the row before", "1"),
    _column("load_1min", pa.float64(), "load average over one minute", "processes"),
    _column("running", pa.int64(), "processes that wanted a CPU", "processes"),
    _column("context_switches", pa.int64(), "context switches of the node since the row before", "switches"),
    _column("memory_available_bytes", pa.int64(), "memory available", "bytes"),
    _column("temperature_c", pa.float64(), "hottest thermal zone", "°C"),
)

NODE_RAW = _schema("node_raw", "State of the node's CPUs during one cell.", _NODE)

NODE = _schema(
    "node", "State of the nodes' CPUs during the cells. Stored in one part per launch.", (_CELL, _LAUNCH, *_NODE)
)

PROBES = _schema(
    "probes",
    "One row per number that a probe measured on a platform; a probe that cannot run is a row with its reason.",
    [
        _key("platform", "where it ran, a file in config/platforms/"),
        _column("hostname", WORD, "node that it ran on"),
        _key("probe", "name of the probe: gemm, memcpy, collectives, ..."),
        _column("variant", pa.string(), "what was varied (data type, shape, size, direction, ranks, ...), as JSON"),
        _column("metric", WORD, "what was measured, for example busbw"),
        _column(
            "process",
            pa.int32(),
            "which of the probe's processes measured it, from 0",
        ),
        _column("value", pa.float64(), "median of the samples; null where unsupported or failed, never 0"),
        _column("unit", WORD, "unit of value, low, high and samples: GB/s (10^9 bytes), TFLOP/s, s, ..."),
        _column("low", pa.float64(), "lower end of the median's distribution-free 95 % interval"),
        _column("high", pa.float64(), "upper end of the median's distribution-free 95 % interval"),
        _column("samples", pa.list_(pa.float64()), "every sample, in order of measuring"),
        _column("status", WORD, "ok | failed | skipped", null=False),
        _column("reason", pa.string(), "why it failed or was skipped"),
        _column(
            "verified", pa.bool_(), "the result was checked against a reference; null where there is nothing to check"
        ),
        _column("started_utc", pa.string(), "start of the probe's process, ISO 8601"),
        _column("source", pa.string(), "file that holds the verbatim output, relative to the repository"),
        _column("size", WORD, "how thorough: quick | full | test"),
        _column("detail", pa.string(), "what explains the number (error against the reference, inputs, ...), as JSON"),
        _column("conditions", WORD, "clocks, temperatures, power, throttling and steal meanwhile, as JSON"),
        _column("software", WORD, "versions of what measured, as JSON"),
        _column("node", WORD, "facts of the node (name to value), as JSON; those it cannot tell are left out"),
    ],
)

TABLES: dict[str, pa.Schema] = {
    "studies": STUDIES,
    "study_cells": STUDY_CELLS,
    "study_models": STUDY_MODELS,
    "study_platforms": STUDY_PLATFORMS,
    "launches": LAUNCHES,
    "attempts": ATTEMPTS,
    "cells": CELLS,
    "cell_slos": CELL_SLOS,
    "economics": ECONOMICS,
    "requests": REQUESTS,
    "server_metrics": SERVER_METRICS,
    "gpu": GPU,
    "node": NODE,
    "capacity_steps": CAPACITY_STEPS,
    "looks": LOOKS,
    "probes": PROBES,
    "traces": TRACED,
    "quality": QUALITY,
    "comparison": COMPARISON,
    "expectations": EXPECTATIONS,
    "variance": VARIANCE,
    "probe_comparison": PROBE_COMPARISON,
}
"""Every table of results/dataset/, in the order of the data dictionary."""

PARTED = ("requests", "server_metrics", "gpu", "node", "capacity_steps")
"""Tables that are folders of one Parquet file per launch; the others are one file."""

OF_COMPARISON = ("comparison", "expectations", "variance", "probe_comparison")
"""Tables that are made from the others, after a merge."""
