"""The dataset's tables: one pyarrow schema each, with a description and a unit beside every column.

The schemas are the only place where columns are declared. Writers conform to them, readers check against them, and
`docs/data-dictionary.md` is printed from them.

Conventions: `_s` seconds (float64), `_ns` nanoseconds (int64, monotonic, 0 = start of the cell's window), `_rps`
requests per second, `_tokens` tokens. Undefined is null, never 0 or NaN. Words that repeat are dictionary-encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from servegauge.contract import cell_tables, metric_registry
from servegauge.contract.activity import COLUMNS as ACTIVITY
from servegauge.contract.columns import (
    KEYS,
    VERSION,
    WORD,
    WORDS,
    SchemaError,
    column,
    conform,
    from_rows,
    key,
    table_schema,
    write,
)
from servegauge.contract.comparison_tables import COMPARISON, EXPECTATIONS, PROBE_COMPARISON, VARIANCE
from servegauge.contract.economics_table import ECONOMICS
from servegauge.contract.metric import Metric
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

__all__ = ["PARTED", "TABLES", "VERSION", "WORD", "WORDS", "SchemaError", "conform", "from_rows", "write"]

_CELL, _LAUNCH = KEYS

_SERVER_FACTORS = (
    column("configuration", WORD, "id of the launch without its repeat: launches that share it are repeats"),
    column("framework", WORD, "what serves: a file in servegauge/frameworks/"),
    column("model", WORD, "name of the model, a file in config/models/"),
    column("platform", WORD, "where it ran, a file in config/platforms/"),
    column("tp", pa.int32(), "tensor parallel size", "GPUs"),
    column("pp", pa.int32(), "pipeline parallel size", "GPUs"),
    column("dp", pa.int32(), "data parallel size", "GPUs"),
    column("ep", pa.int32(), "expert parallel size", "GPUs"),
    column("instances", pa.int32(), "independent servers that share the load", "servers"),
    column("share_gpu", pa.bool_(), "all instances run on the GPUs of one"),
    column("repeat", pa.int32(), "which repetition of the configuration, from 1"),
    column("options", pa.string(), "neutral server options as JSON, keys sorted"),
)

LAUNCHES = table_schema(
    "launches",
    "One row per launch: what the server is, and what became of it.",
    [
        _LAUNCH,
        *_SERVER_FACTORS,
        column("extra_args", WORDS, "arguments given to the server verbatim"),
        column("environment", pa.string(), "environment variables that the study sets, as JSON"),
        column("gpus", pa.int32(), "GPUs of the whole launch", "GPUs"),
        column("joined", WORD, "label of the place that `servegauge join` brought it from; null: measured here"),
        column("status", WORD, "ok | failed | planned (no attempt yet)", null=False),
        column("reason", pa.string(), "why the last attempt failed"),
        column("attempts", pa.int32(), "finished attempts; `attempts` has a row for each", "attempts", null=False),
        column("framework_version", WORD, "what the server of the last attempt says of its version"),
        column("startup_s", pa.float64(), "process start until it answered, in the last attempt", "s"),
    ],
)

ALLOCATION = (
    column("job_s", pa.float64(), "from its start to its end; the job has the node, and its GPUs, for so long", "s"),
    column("starts_s", pa.float64(), "of that: servers starting, until they answered, all starts", "s"),
    column("cells_s", pa.float64(), "of that: cells, with resets, warm-up, ramp, window, tail and saving", "s"),
    column("windows_s", pa.float64(), "of that: the windows of its cells, of a search those of all its rates", "s"),
    column("resets_s", pa.float64(), "of cells_s: resetting prefix caches", "s"),
    column("calibration_s", pa.float64(), "of job_s: calibrating, but for what went on while servers started", "s"),
    column("idle_power_s", pa.float64(), "of job_s: reading the power of GPUs with nothing to do", "s"),
)
"""Columns of ATTEMPTS. What they leave of `job_s` is idle: checks, evidence and records, questions, ending."""

ATTEMPTS = table_schema(
    "attempts",
    "One row per finished attempt of a launch: when, where, what happened, and everything that is known of it.",
    [
        _LAUNCH,
        column(
            "attempt", pa.int32(), "number of the attempt, from 0; cells name the one that measured them", null=False
        ),
        column("study", WORD, "study that asked for it"),
        column("status", WORD, "ok | failed | damaged: its file cannot be read", null=False),
        column("reason", pa.string(), "why it failed, or stopped early"),
        column("started_utc", pa.string(), "start, ISO 8601"),
        column("finished_utc", pa.string(), "end, ISO 8601"),
        column("hostname", WORD, "node that it ran on"),
        column("job", pa.string(), "job of the scheduler, as JSON"),
        column("framework_version", WORD, "what the server says of its version"),
        column("server_starts", pa.int32(), "times that the server was started", "starts"),
        column("startup_s", pa.float64(), "process start until it answered, slowest instance, first start", "s"),
        column("startup_parts", pa.string(), "parts of the start-up in seconds as JSON, where the server tells them"),
        column(
            "compile_cache", WORD, "cold | warm: with what a server of this configuration had compiled, first start"
        ),
        column(
            "settings",
            pa.string(),
            "of each option and choice of the server what was asked and what is in effect, as JSON",
        ),
        *ALLOCATION,
        column("flags", WORDS, "what the server says of itself against what was asked; empty: no difference"),
        column("provenance", pa.string(), "launch.json of the attempt: everything known of it, as JSON"),
    ],
)


def _of(metrics: Iterable[Metric]) -> Iterator[pa.Field]:
    """The column of each metric that is one number."""
    for one in metrics:
        yield column(one.column, pa.int32() if one.whole else pa.float64(), one.formula, one.unit)


def _summary_columns() -> Iterator[pa.Field]:
    """What `metrics.summarise` gives: a column per number, a mean and quantiles with intervals per distribution."""
    yield from _of(metric_registry.per_cell())
    for metric in metric_registry.distributions():
        name, formula, unit = metric.name, metric.formula, metric.unit
        of = " of answered requests" if metric.failed_is_infinite else ""
        yield column(metric.column_of("mean"), pa.float64(), f"mean of {name}{of}: {formula}", unit)
        for which, share in metric.quantiles.items():
            text = f"{share:.0%} quantile of {name}"
            low, high = (f"{end} end of the 95 % interval of the {text}" for end in ("lower", "upper"))
            yield column(metric.column_of(which), pa.float64(), f"{text}: {formula}", unit)
            yield column(metric.column_of(f"{which}_low"), pa.float64(), low, unit)
            yield column(metric.column_of(f"{which}_high"), pa.float64(), high, unit)


SUMMARY = tuple(_summary_columns())
"""Columns of CELLS that `metrics.summarise` computes from the window's requests."""

_OF_STEP = (
    *("requests", "requests_ok", "window_s", "offered_rps", "achieved_rps", "output_tokens_per_s"),
    *(f"{latency}_{which}_s" for latency in ("ttft", "tpot", "e2e") for which in ("p50", "p99")),
)

INSTRUMENT = (
    *(
        column(
            metric.error_column(which),
            pa.float64(),
            f"{metric.title} {which}: reported - true, at the nearest load",
            metric.unit,
        )
        for metric, which in metric_registry.calibrated()
    ),
    column("instrument_load", pa.string(), "the calibrated load nearest to the cell's, as JSON"),
    column("instrument_cpu_s", pa.float64(), "CPU time of the load generator in the window", "s"),
    column("instrument_workers", pa.int32(), "processes of the load generator", "processes"),
    column(
        "instrument_wakeup_p99_s",
        pa.float64(),
        "p99 of how late the load generator woke in the window for a timer that rings 20 times a second",
        "s",
    ),
    column("instrument_wakeup_max_s", pa.float64(), "the latest of them", "s"),
)
"""Columns of CELLS about the load generator's own error, calibrated on the cell's node before the launch."""

CELLS = table_schema(
    "cells",
    "One row per cell of every study, whatever became of it, with its factors and its summary.",
    [
        _CELL,
        _LAUNCH,
        *_SERVER_FACTORS,
        column("prompts", WORD, "name of the prompt set, a file in config/prompts/"),
        column("rate_rps", pa.float64(), "offered rate asked for; null for a closed loop", "1/s"),
        column("concurrency", pa.int32(), "streams of a closed loop; null for an open loop", "streams"),
        column("burst", pa.int32(), "requests sent at once to an idle server; null for the others", "requests"),
        column("capacity", WORD, "SLO whose capacity the cell searched, at many rates; null for the others"),
        column("loop", WORD, "open (at a rate) | closed (streams) | burst (all at once)"),
        column("arrival", WORD, "arrival process: poisson | constant | gamma | burst | replay | steps | ramp | closed"),
        column("cache", WORD, "prefix cache at the start of the window: cold | warm"),
        column("sampling", WORD, "sampling settings of the requests as JSON, keys sorted: temperature, top_p, ..."),
        column("load", pa.string(), "the whole load as JSON, keys sorted"),
        column("workload", WORD, "id of the frozen workload that was replayed"),
        column("workload_sha256", pa.string(), "SHA-256 of the workload's bytes"),
        column("status", WORD, "ok | failed | skipped (cannot work, known before) | planned (not run yet)", null=False),
        column("reason", pa.string(), "why it failed (last attempt) or was skipped"),
        column("attempt", pa.int32(), "attempt of the launch that measured it, or that failed last"),
        column("server", pa.int32(), "which of its launch's servers measured it, from 0; a launch should have one"),
        column("log", pa.string(), "where to look for a failed cell, relative to the repository"),
        column("started_utc", pa.string(), "start of the cell, ISO 8601"),
        column("finished_utc", pa.string(), "end of the cell, ISO 8601"),
        column("reset_s", pa.float64(), "resetting the servers' prefix caches took so long, all resets of it", "s"),
        column("epoch_offset_ns", pa.int64(), "add to a stamp of this cell for Unix time, from the start", "ns"),
        column("clock_drift_ns", pa.int64(), "epoch offset at the end - at the start", "ns"),
        column("flags", WORDS, "names of the validity flags that were raised; empty: none", null=False),
        column("flag_details", pa.string(), "each flag with value, threshold and detail, as JSON"),
        column("texts_sha256", pa.string(), "SHA-256 over the window's output texts in order; equal: same texts"),
        column("cell_sha256", pa.string(), "SHA-256 of the cell's cell.json, which holds those of its files"),
        column("p99_supported", pa.bool_(), "the sample carries a 95 % interval of p99: 368 requests ok or more"),
        column(
            "protocol",
            pa.int16(),
            "version of the measuring protocol (docs/instrument.md); numbers of two protocols are never compared",
        ),
        column(
            "censored",
            WORDS,
            "quantiles that are null because more requests failed than they leave out: larger than the timeout; "
            "capacity_rps, where every rate that was tried attained, or none: see capacity_low_rps, capacity_high_rps",
        ),
        column("acceptance_reason", WORD, "why acceptance_length is null"),
        column("capacity_low_rps", pa.float64(), "highest rate that attained; null: none did, or none asked", "1/s"),
        column("capacity_high_rps", pa.float64(), "lowest rate that did not attain; null: each did", "1/s"),
        column(
            "energy_source", WORD, "what energy is known from: counter (the GPUs' own) | power (sampled, integrated)"
        ),
        column(
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

CELL_SLOS = table_schema(
    "cell_slos",
    "Goodput of each measured cell under each SLO that a study names.",
    [
        STUDY,
        _CELL,
        key("slo", "name of the SLO in the study"),
        column("limits", pa.string(), "upper limits of the SLO as JSON, for example ttft_s"),
        *_of(metric_registry.per_slo()),
    ],
)

CAPACITY_STEPS = table_schema(
    "capacity_steps",
    "One row per rate that a search for the capacity tried. Stored in one part per launch.",
    [
        _CELL,
        _LAUNCH,
        column("step", pa.int16(), "number of the rate in the order of trying, from 0", null=False),
        column("slo", WORD, "name of the SLO in the study", null=False),
        column("rate_rps", pa.float64(), "rate asked for", "1/s", null=False),
        column("attained", pa.bool_(), "enough requests surely met the SLO, and the queue did not grow", null=False),
        column("attained_low", pa.float64(), "lower 95 % bound of attained_share (Clopper-Pearson)", "1", null=False),
        column("saturated", pa.bool_(), "the queue grew over the window: the flag `saturated`", null=False),
        *_of(metric_registry.per_slo()),
        *(field for field in SUMMARY if field.name in _OF_STEP),
        column("ramp_s", pa.float64(), "time under load before the window", "s"),
        column("started_utc", pa.string(), "start of the load, ISO 8601"),
        column("flags", WORDS, "names of the flags that this rate's load raised", null=False),
    ],
)

PROBES = table_schema(
    "probes",
    "One row per number that a probe measured on a platform; a probe that cannot run is a row with its reason.",
    [
        key("platform", "where it ran, a file in config/platforms/"),
        column("hostname", WORD, "node that it ran on"),
        key("probe", "name of the probe: gemm, memcpy, collectives, ..."),
        column("variant", pa.string(), "what was varied (data type, shape, size, direction, ranks, ...), as JSON"),
        column("metric", WORD, "what was measured, for example busbw"),
        column(
            "process",
            pa.int32(),
            "which of the probe's processes measured it, from 0",
        ),
        column("value", pa.float64(), "median of the samples; null where unsupported or failed, never 0"),
        column("unit", WORD, "unit of value, low, high and samples: GB/s (10^9 bytes), TFLOP/s, s, ..."),
        column("low", pa.float64(), "lower end of the median's distribution-free 95 % interval"),
        column("high", pa.float64(), "upper end of the median's distribution-free 95 % interval"),
        column("samples", pa.list_(pa.float64()), "every sample, in order of measuring"),
        column("status", WORD, "ok | failed | skipped", null=False),
        column("reason", pa.string(), "why it failed or was skipped"),
        column(
            "verified", pa.bool_(), "the result was checked against a reference; null where there is nothing to check"
        ),
        column("started_utc", pa.string(), "start of the probe's process, ISO 8601"),
        column("source", pa.string(), "file that holds the verbatim output, relative to the repository"),
        column("size", WORD, "how thorough: quick | full | test"),
        column("detail", pa.string(), "what explains the number (error against the reference, inputs, ...), as JSON"),
        column("conditions", WORD, "clocks, temperatures, power, throttling and steal meanwhile, as JSON"),
        column("software", WORD, "versions of what measured, as JSON"),
        column("node", WORD, "facts of the node (name to value), as JSON; those it cannot tell are left out"),
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
    "requests": cell_tables.REQUESTS,
    "server_metrics": cell_tables.SERVER_METRICS,
    "gpu": cell_tables.GPU,
    "node": cell_tables.NODE,
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
