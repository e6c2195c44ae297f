"""What measuring will take: start-up and cells of a job, GPUs that count, the time limit to ask for.

Times come from the dataset where something like it was measured, and from `planning` in config/config.yaml where not.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from servegauge.contract import sbatch_lines
from servegauge.contract.capacity import search_seconds
from servegauge.contract.config_types import Prompts, Study
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.spec import Load, canonical_json
from servegauge.contract.yaml_schema import schema

LIMIT_MARGIN = 1.5  # a job asks for so much more than the estimate,
TRACE_S = 60.0  # to start a profiler, and to write what it has taken
LIMIT_EXTRA_MIN = 10  # and for so many minutes on top; a job that ends early costs nothing


@dataclass(frozen=True)
class Estimate:
    """What the missing cells of a launch will take; all 0 where none is missing."""

    startup_s: float
    cells_s: float
    gpus: int  # that count against the budget

    @property
    def minutes(self) -> float:
        """Minutes of the job."""
        return (self.startup_s + self.cells_s) / 60

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours of the job."""
        return self.gpus * self.minutes / 60


@dataclass(frozen=True)
class _Measured:
    """Medians of what the dataset knows: start-up by launch, window (of a search: all) by configuration and load."""

    startup_s: Mapping[tuple[str, ...], float]
    window_s: Mapping[tuple[str, ...], float]


@cache
def _measured(results: Path) -> _Measured:
    """Read once per process, and pyarrow only where there is something to read."""
    starts, windows = defaultdict(list), defaultdict(list)
    for row in _rows(
        results / "dataset" / "launches.parquet", ("configuration", "framework", "model", "platform", "startup_s")
    ):
        if row["startup_s"] is not None:
            for key in _startup_keys(row["configuration"], row["framework"], row["model"], row["platform"]):
                starts[key].append(row["startup_s"])
    loads: dict[str, str] = {}  # the few loads of a study, as the dataset and as `Load.canonical` write them
    stamps = ("started_utc", "finished_utc")
    for row in _rows(results / "dataset" / "cells.parquet", ("configuration", "prompts", "load", "window_s", *stamps)):
        if row["window_s"] is not None and row["load"]:
            load = loads.setdefault(row["load"], "") or canonical_json(json.loads(row["load"]))
            loads[row["load"]] = load
            seconds = row["window_s"]
            if '"capacity":' in load and all(row[stamp] for stamp in stamps):
                start, end = (datetime.fromisoformat(row[stamp]) for stamp in stamps)
                seconds = (end - start).total_seconds()
            windows[row["configuration"], row["prompts"], load].append(seconds)
    return _Measured(
        {key: statistics.median(values) for key, values in starts.items()},
        {key: statistics.median(values) for key, values in windows.items()},
    )


def _startup_keys(configuration: str, name: str, model: str, platform: str) -> list[tuple[str, ...]]:
    """What start-up times are looked up by, the most telling first."""
    return [(configuration,), (name, model, platform), (name, model), (name, platform)]


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, columns=list(columns)).to_pylist()
    except (OSError, pa.ArrowInvalid, KeyError):
        return []  # written by another version, or damaged: the estimate goes on without it, the merge will say so


def assumed(study: Study) -> dict[str, float]:
    """`planning` of config.yaml as `study` carries it, with the schema's defaults."""
    defaults = schema("config")["properties"]["planning"]["properties"]
    return {**{name: rule["default"] for name, rule in defaults.items()}, **study.get("planning", {})}


def estimate_cells(
    launch: LaunchSpec, cells: Sequence[CellSpec], results: Path, assumed: Mapping[str, float]
) -> Estimate:
    """What a job that measures `cells` on `launch` will take; `assumed` is `planning` of config.yaml."""
    if not cells:
        return Estimate(0.0, 0.0, 0)
    known = _measured(results)
    platform = launch.platform["name"]
    keys = _startup_keys(launch.configuration, launch.framework, launch.model["name"], platform)
    startup = next((known.startup_s[key] for key in keys if key in known.startup_s), None)
    gpus = charged_gpus(launch)
    cells_s = sum(cell_seconds(cell, launch, assumed, known.window_s) for cell in cells)
    cells_s += TRACE_S if launch.trace else 0.0
    return Estimate(
        startup_s=assumed["startup_s" if gpus else "startup_cpu_s"] if startup is None else startup,
        cells_s=cells_s,
        gpus=gpus,
    )


def cell_seconds(
    cell: CellSpec, launch: LaunchSpec, assumed: Mapping[str, float], windows: Mapping[tuple[str, ...], float]
) -> float:
    """Seconds of one cell: overhead, warm-up, ramp, window and tail; the window as measured where it was."""
    load, prompts = cell.load, cell.prompts
    request = assumed["ttft_s"] + assumed["tpot_s"] * _mean_output(prompts, load) + load.think_s
    window = windows.get((launch.configuration, prompts["name"], load.canonical))
    if load.capacity is not None:
        if window is not None:  # of the whole search
            return window
        overhead = assumed["cell_overhead_s"] + ramp_seconds(load, request, math.inf)
        return search_seconds(load.requests or 0, load.capacity["first_rps"], request, overhead)
    if window is None:
        window = min(_sending(load, load.requests, request), load.duration_s or math.inf)
        window = load.bursts * request if load.burst is not None else window
    warmup = window if load.cache == "warm" else _sending(load, load.warmup_requests, request)
    return assumed["cell_overhead_s"] + warmup + ramp_seconds(load, request, window) + window + 2 * request


def ramp_seconds(load: Load, request_s: float, window_s: float) -> float:
    """About how long a ramp is, in seconds: see `instrument/ramp.py`."""
    if load.burst is not None:
        return 0.0
    if load.concurrency is not None:  # one round to start staggered, one to be answered
        return max(load.ramp_s or 0.0, 2 * request_s)
    return max(load.ramp_s if load.ramp_s is not None else min(2.0, window_s / 3), 1.25 * request_s)


def _sending(load: Load, requests: int | None, request_s: float) -> float:
    if requests is None:
        return math.inf
    if load.burst is not None:
        return request_s
    return requests / load.rate_rps if load.rate_rps else math.ceil(requests / (load.concurrency or 1)) * request_s


def _mean_output(prompts: Prompts, load: Load) -> float:
    length = load.output_tokens or prompts.get("output_tokens") or 256  # of a data set, unknown before it is read
    if not isinstance(length, Mapping):
        return length
    if "values" in length:
        weights = length.get("weights") or [1] * len(length["values"])
        return sum(map(float.__mul__, map(float, length["values"]), map(float, weights))) / sum(weights)
    return length.get("mean") or length.get("value") or (length.get("min", 1) + length.get("max", 512)) / 2


def nodes(launch: LaunchSpec) -> int:
    """Nodes that a launch needs."""
    per_node = launch.platform.get("gpus_per_node", 0)
    return math.ceil(launch.layout.gpus / per_node) if per_node else 1


def charged_gpus(launch: LaunchSpec) -> int:
    """GPUs that count against the budget: all of a node's where the job has the node for itself."""
    per_node = launch.platform.get("gpus_per_node", 0)
    if not per_node:
        return 0
    return per_node * nodes(launch) if sbatch_lines.whole_node(launch.platform.get("slurm", {})) else launch.layout.gpus


def time_limit_min(study: Study, launch: LaunchSpec, minutes: float) -> int:
    """Minutes that the job of `launch` asks for, when its cells are estimated to take `minutes`."""
    asked = (study.get("job") or {}).get("minutes") or math.ceil(minutes * LIMIT_MARGIN + LIMIT_EXTRA_MIN)
    return min(asked, launch.platform.get("slurm", {}).get("time_min", asked))
