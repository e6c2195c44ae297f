"""A believable results/ folder without a server: the shape of real data, with numbers that are known.

`make_results(folder)` writes two platforms x two repeats x six cells as a run would leave them, with one cell that
failed, one that cannot work and one that is flagged. `PLATFORM_FACTOR` is the truth that a comparison must find.
Also a door: `python tests/synthetic.py FOLDER [--requests N]`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.files import sha256, whole_folder, write_json, write_text
from servegauge.contract import cell_tables, tables
from servegauge.contract.records.base import plain
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.spec import Cell, Launch, Load

PLATFORM_FACTOR = {"own-cpu": {"ttft": 1.0, "tpot": 1.0}, "shared-cpu": {"ttft": 1.3, "tpot": 1.1}}
BASE_TTFT_S = {"short": 0.012, "long": 0.048}
BASE_TPOT_S = 0.0016
LAUNCH_SPREAD = 0.01  # of the logarithm, between launches of one configuration
REQUEST_SPREAD = 0.12  # of the logarithm, between requests of one cell
NS = 1_000_000_000

STUDY_TEXT = """question: What does it cost to share a CPU with the load generator?
matrix:
  model: [tiny]
  framework: [llamacpp]
  platform: [own-cpu, shared-cpu]
  prompts: [short, long]
  rate: [2, 4]
  concurrency: [1]
  repeat: 2
load: {requests: 60, output_tokens: 32}
slo:
  interactive: {ttft_s: 0.05, tpot_s: 0.01}
compare: {factor: platform, baseline: own-cpu}
"""


@dataclass(frozen=True)
class Shape:
    """How a cell's requests are drawn: multipliers of the base latencies, request and token counts, a seed."""

    requests: int = 60
    warmup: int = 4
    output_tokens: int = 32
    prompt_tokens: int = 64
    rate_rps: float | None = 4.0
    ttft_s: float = 0.02
    tpot_s: float = BASE_TPOT_S
    spread: float = REQUEST_SPREAD
    errors: int = 0
    seed: int = 0
    text_seed: int = 0


def raw_requests(cell: str, launch: str, shape: Shape) -> pa.Table:
    """A REQUESTS_RAW table; the last `shape.errors` requests of the window are HTTP errors."""
    rng = np.random.default_rng(shape.seed)
    parts = [_phase(cell, launch, "warmup", shape.warmup, shape, rng)] if shape.warmup else []
    parts.append(_phase(cell, launch, "window", shape.requests, shape, rng))
    return pa.concat_tables(parts)


def _phase(cell: str, launch: str, phase: str, n: int, shape: Shape, rng: np.random.Generator) -> pa.Table:
    ttft = shape.ttft_s * np.exp(rng.normal(0, shape.spread, n))
    gaps = shape.tpot_s * np.exp(rng.normal(0, shape.spread / 2, (n, shape.output_tokens - 1)))
    chunks = (np.cumsum(np.column_stack([ttft, gaps]), axis=1) * NS).astype(np.int64)
    if shape.rate_rps is None:
        took = chunks[:, -1] + 200_000
        scheduled = np.concatenate([[0], np.cumsum(took)[:-1]])
    else:
        scheduled = (np.cumsum(rng.exponential(1 / shape.rate_rps, n)) * NS).astype(np.int64)
    if phase == "warmup":
        scheduled = scheduled - scheduled.max() - NS
    sent = scheduled + (rng.exponential(40e-6, n) * NS).astype(np.int64)
    chunks += sent[:, None]
    ok = np.ones(n, bool)
    if phase == "window" and shape.errors:
        ok[-shape.errors :] = False
    tokens = shape.output_tokens
    offsets = np.concatenate([[0], np.cumsum(np.where(ok, tokens, 0))]).astype(np.int32)
    texts = [hashlib.sha256(f"{shape.text_seed} {phase} {index}".encode()).hexdigest() for index in range(n)]

    def where_ok(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(np.broadcast_to(values, n), type=kind, mask=~ok)

    columns = {
        "cell": pa.array([cell] * n, pa.string()).dictionary_encode(),
        "launch": pa.array([launch] * n, pa.string()).dictionary_encode(),
        "request": pa.array(np.arange(n), pa.int32()),
        "phase": pa.array([phase] * n, pa.string()).dictionary_encode(),
        "instance": pa.array(np.zeros(n), pa.int16()),
        "worker": pa.array(np.zeros(n), pa.int16()),
        "scheduled_ns": pa.array(scheduled, pa.int64()),
        "sent_ns": pa.array(sent, pa.int64()),
        "first_byte_ns": pa.array(chunks[:, 0] - 90_000, pa.int64()),
        "first_token_ns": where_ok(chunks[:, 0], pa.int64()),
        "last_ns": where_ok(chunks[:, -1], pa.int64()),
        "end_ns": pa.array(chunks[:, -1] + 60_000, pa.int64()),
        "chunk_ns": pa.ListArray.from_arrays(offsets, pa.array(chunks[ok].ravel())),
        "chunk_tokens": pa.ListArray.from_arrays(offsets, pa.array(np.ones(offsets[-1], np.int32))),
        "connection_reused": pa.array(np.ones(n, bool)),
        "http_status": pa.array(np.where(ok, 200, 503), pa.int16()),
        "status": pa.array(np.where(ok, "ok", "http_error")).dictionary_encode(),
        "error": pa.array(["HTTP 503: busy"] * n, pa.string(), mask=ok),
        "finish_reason": where_ok("length", pa.string()),
        "prompt_tokens_asked": pa.array(np.full(n, shape.prompt_tokens), pa.int32()),
        "output_tokens_asked": pa.array(np.full(n, tokens), pa.int32()),
        "prompt_tokens": where_ok(shape.prompt_tokens, pa.int32()),
        "output_tokens": where_ok(tokens, pa.int32()),
        "tokens_source": where_ok("usage", pa.string()),
        "cached_tokens": where_ok(0, pa.int32()),
        "text_sha256": pa.array(texts, pa.string(), mask=~ok),
    }
    return tables.conform(pa.table(columns), cell_tables.REQUESTS_RAW)


def raw_server_metrics(shape: Shape, window_s: float) -> pa.Table:
    """Requests running and waiting, once a second."""
    ticks = np.arange(0, max(1, int(window_s)))
    rows = [
        {
            "t_ns": int(tick * NS),
            "instance": 0,
            "metric": metric,
            "raw": f"llamacpp:{metric}",
            "labels": "{}",
            "value": v,
        }
        for tick in ticks
        for metric, v in (("requests_running", 1.0), ("requests_waiting", 0.0))
    ]
    schema = pa.schema([field for field in cell_tables.SERVER_METRICS if field.name not in ("cell", "launch")])
    return tables.from_rows(rows, schema)


def raw_node(window_s: float) -> pa.Table:
    """The node's CPUs, once a second."""
    ticks = range(max(1, int(window_s)))
    rows = [{"t_ns": tick * NS, "cpu_mhz_mean": 2600.0, "steal_share": None if tick == 0 else 0.01} for tick in ticks]
    return tables.from_rows(rows, cell_tables.NODE_RAW)


def launches(repeats: int = 2) -> list[Launch]:
    """Two platforms x `repeats`."""
    model = {"name": "tiny", "source": "models/tiny", "gguf": "models/tiny.gguf", "revision": None}
    return [
        Launch("llamacpp", model, {"name": name, "placement": {"server_cpus": [cpu]}}, repeat=repeat)
        for repeat in range(1, repeats + 1)
        for name, cpu in (("own-cpu", 1), ("shared-cpu", 0))
    ]


def cells_of(launch: Launch, requests: int) -> list[Cell]:
    """Two prompt sets x (two rates, one concurrency)."""
    loads = [
        Load(rate_rps=2.0, requests=requests, warmup_requests=4, output_tokens=32),
        Load(rate_rps=4.0, requests=requests, warmup_requests=4, output_tokens=32),
        Load(concurrency=1, arrival={"process": "closed"}, requests=requests, warmup_requests=4, output_tokens=32),
    ]
    return [Cell.of(launch, {"name": name}, load) for name in ("short", "long") for load in loads]


def shape_of(launch: Launch, cell: Cell, requests: int) -> Shape:
    """The draw of one cell: the same requests on both platforms of a repeat, slower by the platform's factor."""
    factor = PLATFORM_FACTOR[launch.platform["name"]]
    prompts = cell.prompts["name"]
    rng = np.random.default_rng(int(hashlib.sha256(launch.id.encode()).hexdigest()[:8], 16))
    luck = float(np.exp(rng.normal(0, LAUNCH_SPREAD)))
    rate = cell.load.rate_rps
    return Shape(
        requests=requests,
        rate_rps=rate,
        prompt_tokens={"short": 32, "long": 256}[prompts],
        ttft_s=BASE_TTFT_S[prompts] * factor["ttft"] * (1 + 0.05 * (rate or 1)) * luck,
        tpot_s=BASE_TPOT_S * factor["tpot"] * luck,
        seed=cell.workload.seed,
    )


def write_cell(
    results: Path,
    launch: Launch,
    cell: Cell,
    shape: Shape,
    flags: list[dict] | None = None,
    requests: pa.Table | None = None,
    beside: Callable[[Path], None] | None = None,
    capacity: dict[str, Any] | None = None,
) -> Path:
    """One measured cell as a launch leaves it, with `requests` where they are at hand, and what `beside` puts there.

    `capacity` is what a search says in cell.json.
    """
    requests = raw_requests(cell.id, launch.id, shape) if requests is None else requests
    window = requests.filter(pc.equal(requests["phase"], "window"))
    window_s = pc.max(window["end_ns"]).as_py() / NS
    folder = results / "cells" / cell.id
    with whole_folder(folder) as temporary:
        pq.write_table(requests, temporary / "requests.parquet", compression="zstd")
        pq.write_table(raw_server_metrics(shape, window_s), temporary / "server_metrics.parquet")
        pq.write_table(raw_node(window_s), temporary / "node.parquet")
        if beside:
            beside(temporary)
        files = {
            path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
            for path in sorted(temporary.glob("*.parquet"))
        }
        record = {
            "version": 1,
            "cell": cell.id,
            "launch": launch.id,
            "attempt": 0,
            "study": "demo",
            "protocol": cell.protocol,
            "workload": cell.workload.id,
            "workload_sha256": hashlib.sha256(cell.workload.id.encode()).hexdigest(),
            "status": "ok",
            "reason": None,
            "spec": plain(CellSpec.of(cell)),
            "started_utc": "2026-11-21T10:00:00.000Z",
            "finished_utc": "2026-11-21T10:00:30.000Z",
            "clock": {
                "window_start_ns": 5 * NS,
                "epoch_offset_start_ns": 17 * NS,
                "epoch_offset_end_ns": 17 * NS + 1500,
            },
            "window": {"duration_s": window_s},
            "capacity": capacity,
            "flags": flags or [],
            "cache_reset": {"ok": True, "how": "cache off", "answer": ""},
            "instrument": {
                "lateness_p50_s": 3e-5,
                "lateness_p99_s": 2e-4,
                "lateness_max_s": 4e-4,
                "cpu_s": 0.21,
                "cpus": [0],
                "buffer_high_water": 512,
                "workers": 1,
                "calibration": {
                    "load": {"rate_rps": 4, "output_tokens": 32},
                    "ttft_error_s": {"p50": 1.5e-4, "p90": 2.4e-4, "p99": 4.1e-4, "max": 6e-4},
                    "itl_error_s": {"p50": 1e-6, "p90": 8e-5, "p99": 3e-4, "max": 5e-4},
                    "e2e_error_s": {"p50": 1.6e-4, "p90": 2.6e-4, "p99": 4.4e-4, "max": 6e-4},
                },
            },
            "metrics_before": {},
            "metrics_after": {},
            "files": files,
        }
        write_json(temporary / "cell.json", record)
    return folder


def write_launch(results: Path, launch: Launch, outcomes: dict[str, dict[str, Any]]) -> None:
    """spec.json, launch.json with provenance, a server's log and the finished attempt."""
    folder = results / "launches" / launch.id
    platform = launch.platform["name"]
    write_json(folder / "spec.json", launch.to_dict())
    head = {"version": 1, "launch": launch.id, "attempt": 0, "study": "demo", "started_utc": "2026-11-21T09:59:00.000Z"}
    end = {"finished_utc": "2026-11-21T10:05:00.000Z", "status": "ok", "reason": None, "cells": outcomes}
    evidence = {"version": "b7000", "effective": {"context_tokens": 2048}, "startup_s": {"weights": 0.4}, "raw": {}}
    argv = ["python", "-m", "servegauge.inputs.engines.llamacpp_server", "--port", str(40000 + launch.repeat)]
    launch_json = {
        **head,
        **end,
        "spec": launch.to_dict(),
        "flags": [],
        "server_starts": [
            {
                "utc": "2026-11-21T09:59:30.000Z",
                "ready_s": 1.2 + 0.1 * launch.repeat,
                "instances": [{"argv": argv, "environment": {}, "ready_s": 1.3, "evidence": evidence}],
            }
        ],
        "provenance": {
            "workflow": {"value": {"commit": "b381bc9", "dirty": False}, "reason": None},
            "cpu": {"value": {"model": "AMD EPYC 9654", "governor": "performance"}, "reason": None},
            "kernel": {"value": {"release": "6.1.0-31-amd64"}, "reason": None},
            "cgroup": {"value": {"cpus": launch.platform["placement"]["server_cpus"]}, "reason": None},
            "virtualization": {"value": {"detect": "none" if platform == "own-cpu" else "kvm"}, "reason": None},
            "gpu": {"value": None, "reason": "no nvidia-smi on this node"},
            "times": {"value": {"monotonic_ns": 17 * launch.repeat}, "reason": None},
        },
    }
    write_json(folder / "attempt-0" / "launch.json", launch_json)
    write_text(folder / "attempt-0" / "server-0.log", "llama server listening\n")
    write_json(folder / "attempt-0.json", {**head, **end, "job": {"mode": "local", "id": "4711"}})


def make_results(
    root: Path,
    requests: int = 60,
    repeats: int = 2,
    flags: list[dict[str, Any]] | None = None,
    beside: Callable[[Path], None] | None = None,
) -> dict[str, str]:
    """Fill `root`/results; returns the ids of the cells called failed, skipped and flagged.

    Every measured cell has the `flags` given; the one called flagged has a flag of its own. `beside` is given each
    cell's folder, to put more files there.
    """
    results = root / "results"
    plan_cells, special, all_launches = [], {}, launches(repeats)
    for launch in all_launches:
        outcomes = {}
        for cell in cells_of(launch, requests):
            shape = shape_of(launch, cell, requests)
            plan_cells.append(plain(CellSpec.of(cell)))
            here = (launch.platform["name"], launch.repeat, cell.prompts["name"], cell.load.words())
            if here == ("shared-cpu", 2, "long", "conc1"):
                special["failed"] = cell.id
                outcomes[cell.id] = {
                    "status": "failed",
                    "reason": "the server died: exit status -9 (killed; out of memory?)",
                }
                continue
            raised = flags
            if here == ("shared-cpu", 1, "long", "rate4"):
                special["flagged"] = cell.id
                shape = Shape(**{**asdict(shape), "errors": max(1, requests // 20)})
                share = shape.errors / requests
                detail = f"{shape.errors} of {requests} requests failed"
                raised = [{"flag": "errors", "value": share, "threshold": 0.01, "detail": detail}]
            write_cell(results, launch, cell, shape, raised, beside=beside)
            outcomes[cell.id] = {"status": "ok", "reason": None}
        write_launch(results, launch, outcomes)
    first = all_launches[0]
    too_long = Cell.of(first, {"name": "novel"}, Load(rate_rps=2.0, requests=requests, output_tokens=32))
    special["skipped"] = too_long.id
    reason = "prompt and answer take up to 8032 tokens, the server's context_tokens is 2048"
    plan_cells.append(plain(CellSpec.of(too_long, reason)))
    study = {
        "name": "demo",
        "question": "What does it cost to share a CPU with the load generator?",
        "path": "config/studies/demo.yaml",
        "text": STUDY_TEXT,
        "sha256": hashlib.sha256(STUDY_TEXT.encode()).hexdigest(),
        "matrix": {
            "platform": ["own-cpu", "shared-cpu"],
            "prompts": ["short", "long"],
            "rate": [2, 4],
            "repeat": repeats,
        },
        "slo": {"interactive": {"ttft_s": 0.05, "tpot_s": 0.01}},
        "compare": {"factor": "platform", "baseline": "own-cpu"},
    }
    plan = {
        "study": study,
        "launches": [launch.to_dict() for launch in all_launches],
        "cells": plan_cells,
        "workloads": [],
    }
    write_json(results / "plan" / "demo.json", plan)
    return special


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--requests", type=int, default=60)
    arguments = parser.parse_args()
    print(make_results(arguments.folder, arguments.requests))
