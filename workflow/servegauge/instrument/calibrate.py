"""The load generator's own error, measured against the paced server, whose truth is known.

For each point of a grid of loads: what the generator reports less what the server really did. `*_error_s` holds the
differences of quantiles (reported p99 - true p99, signed), `*_paired_error_s` the quantiles of the differences request
by request (or chunk by chunk). Truth: first token = first send - request received, on the server's clock, which is the
client's. The short form takes seconds and runs on the node before every launch.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from servegauge.base.errors import UserError
from servegauge.base.http import direct_opener
from servegauge.contract.records.base import write
from servegauge.contract.records.calibration import CalibratedPoint, Calibration, Point
from servegauge.contract.spec import Load
from servegauge.instrument.carried import REACH, TTFT_ERROR_LIMIT_S, carries, error_of, limits, size_of
from servegauge.instrument.coordinator import LoadResult, run_load
from servegauge.instrument.job import LoadJob
from servegauge.node.process_tree import Others

RAMP_S = 0.3  # of an open loop's point: several of its answers
MOST_OWN = 6  # points beside the short ones that a launch's own loads may add, the largest first
LEAST_RATE, LEAST_PROMPT = 20.0, 2048  # requests/s and tokens below which a load makes no difference to the instrument
NOISY, TRIES = 0.8, 3  # a point with an error of more than this part of the limit is measured so often
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_START_S = 20.0
_TOKEN = "word "  # about one token of prompt


def _closed(streams: int, rounds: int, **fields: Any) -> Point:
    return Point(streams=streams, requests=streams * rounds, **fields)


SHORT: tuple[Point, ...] = (  # at every launch, so few and short: about 6 s
    _closed(1, 5),
    _closed(64, 4),
    _closed(256, 3),
    Point(rate_rps=100.0, requests=100),
    _closed(8, 3, prompt_tokens=8192),
)
FULL: tuple[Point, ...] = (
    *(_closed(streams, max(4, 16 // streams), output_tokens=64) for streams in (1, 4, 16, 64, 128, 256, 512)),
    *(Point(rate_rps=rate, requests=int(rate * 4), output_tokens=64) for rate in (5.0, 20.0, 50.0, 100.0, 200.0)),
    *(_closed(64, 4, output_tokens=64, gap_s=gap) for gap in (0.002, 0.005, 0.05)),
    *(_closed(8, 3, prompt_tokens=prompt) for prompt in (1024, 8192, 65536)),
    *(_closed(64, 4, output_tokens=64, tokens_per_chunk=size) for size in (4, 16)),
)


def short_points(loads: Sequence[tuple[Load, float | None]] = ()) -> tuple[Point, ...]:
    """The points of a short calibration: `SHORT`, and those of a launch's own `loads` that none of them is near to.

    A load comes with its mean prompt length in tokens, None where that is not known. Near is within a factor of `REACH`
    in streams (or rate) and prompt length; rates and prompts below those that tell are taken to be those.
    """
    points = list(SHORT)
    for load, prompt in sorted(loads, key=lambda one: -size_of(one[0])[0]):
        size, kind = size_of(load)
        tokens = math.ceil(prompt or SHORT[0].prompt_tokens)
        if kind == "streams":
            own = _closed(int(size), 3 if size > 16 else 5, prompt_tokens=tokens)
        else:
            rate = max(size, LEAST_RATE)
            own = Point(rate_rps=rate, requests=max(30, min(100, math.ceil(rate))), prompt_tokens=tokens)
        if len(points) < len(SHORT) + MOST_OWN and not any(_near(own, point, kind) for point in points):
            points.append(own)
    return tuple(points)


def _near(one: Point, other: Point, kind: str) -> bool:
    """True where two points of one kind are as good as one."""
    sizes = getattr(one, kind), getattr(other, kind)
    prompts = max(one.prompt_tokens, LEAST_PROMPT), max(other.prompt_tokens, LEAST_PROMPT)
    return all(sizes) and all(max(pair) <= REACH * min(pair) for pair in (sizes, prompts))


@dataclass
class PacedServer:
    """A paced server in a process of its own, and its log."""

    url: str
    process: subprocess.Popen[bytes] = field(repr=False)

    def truth(self) -> dict[str, dict[str, Any]]:
        """What it really did since the last call, by request id."""
        with direct_opener().open(f"{self.url}/truth?clear=1", timeout=60) as reply:
            return {entry["id"]: entry for entry in json.load(reply)["requests"]}


@contextlib.contextmanager
def paced_server(arguments: Sequence[str], cpu: int | None, folder: Path) -> Iterator[PacedServer]:
    """Start the paced server on a free port, pinned to `cpu`, for the length of the block."""
    port_file, log = folder / f"port-{time.monotonic_ns()}", folder / "paced.log"
    argv = [
        sys.executable,
        "-m",
        "servegauge.inputs.engines.paced.server",
        "--port",
        "0",
        "--port-file",
        str(port_file),
        "--parent",
        str(os.getpid()),
        *arguments,
    ]
    if cpu is not None:
        argv += ["--cpu", str(cpu)]
    with log.open("ab") as stderr, subprocess.Popen(argv, stderr=stderr) as process:
        try:
            deadline = time.monotonic() + _START_S
            while not (port_file.exists() and port_file.read_text()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise UserError(f"the paced server did not start: {log.read_text().strip() or 'it wrote nothing'}")
                time.sleep(0.01)
            yield PacedServer(f"http://127.0.0.1:{port_file.read_text().strip()}", process)
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()


def write_workload(point: Point, path: Path, seed: int = 1) -> Path:
    """The workload of a point, with ramp and tail; Poisson arrivals where it is an open loop."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if point.rate_rps is None:
        spare = 2 * (point.streams or 1) + 8
        parts = {"ramp": [None] * spare, "window": [None] * point.requests, "tail": [None] * spare}
    else:
        spare = int(point.rate_rps * (RAMP_S + 4 * point.e2e_s)) + 8
        draw = np.random.default_rng(seed)
        ramp = np.cumsum(draw.exponential(1 / point.rate_rps, spare))
        after = np.cumsum(draw.exponential(1 / point.rate_rps, point.requests + spare))
        parts = {"ramp": list(ramp), "window": list(after[: point.requests]), "tail": list(after[point.requests :])}
    count = sum(map(len, parts.values()))
    columns = {
        "request": pa.array(range(count), pa.int32()),
        "phase": pa.array([phase for phase, times in parts.items() for _ in times]),
        "scheduled_s": pa.array([time for times in parts.values() for time in times], pa.float64()),
        "prompt": pa.array([f"{number} " + _TOKEN * point.prompt_tokens for number in range(count)]),
        "messages": pa.array([None] * count, pa.string()),
        "prompt_tokens": pa.array([point.prompt_tokens] * count, pa.int32()),
        "output_tokens": pa.array([point.output_tokens] * count, pa.int32()),
    }
    pq.write_table(pa.table(columns), path)
    return path


def measure(point: Point, server: PacedServer, folder: Path, cpus: list[int] | None) -> CalibratedPoint:
    """Run one point and compare with the server's log."""
    job = LoadJob(
        base_urls=[server.url],
        workload=str(write_workload(point, folder / "workload.parquet")),
        out=str(folder),
        model="paced",
        load=Load(
            rate_rps=point.rate_rps,
            concurrency=point.streams,
            ramp_s=None if point.rate_rps is None else RAMP_S,
            timeout_s=60.0,
        ),
        phase="window",
        expected_e2e_s=point.e2e_s,
        cpus=cpus,
        workers=point.workers,
        cell="calibration",
        run_id="",  # the paced server forgets what it did before
    )
    server.truth()
    others = Others(os.getpid())
    result = run_load(job)
    share = others.share()
    return msgspec.structs.replace(compare(result, server.truth(), point), others_share=share)


def steadily(measured: Callable[[], CalibratedPoint]) -> CalibratedPoint:
    """What `measured` gives; where that is noisy, the one of `TRIES` with the median of the p99 TTFT errors.

    A point of a short calibration rests on a hundred requests: one of them that something else held up is its p99.
    `tries` has the error of each.
    """
    found = [measured()]
    # Where nine in ten are off as well, that is no noise, and trying again would only take longer.
    noisy = (
        not carries(found[0], NOISY * TTFT_ERROR_LIMIT_S)
        and abs(found[0].ttft_error_s.get("p90", 0.0)) < TTFT_ERROR_LIMIT_S
    )
    while noisy and len(found) < TRIES:
        found.append(measured())

    chosen = sorted(found, key=error_of)[(len(found) - 1) // 2]
    return msgspec.structs.replace(chosen, tries=tuple(one.ttft_p99_error_s for one in found))


def compare(result: LoadResult, truth: Mapping[str, Mapping[str, Any]], point: Point) -> CalibratedPoint:
    """Reported against true: see the module's text."""
    import pyarrow.parquet as pq

    reported: dict[str, list[float]] = {"ttft": [], "itl": [], "e2e": []}
    true: dict[str, list[float]] = {"ttft": [], "itl": [], "e2e": []}
    slips: list[float] = []
    tokens = 0
    rows = [row for row in pq.read_table(result.requests).to_pylist() if row["status"] == "ok"]
    rows = [row for row in rows if row["phase"] == "window"]
    for row in rows:
        sent = truth[row["request_id"]]
        sends, chunks = np.array(sent["sends_ns"]), np.array(row["chunk_ns"])
        tokens += row["output_tokens"]
        true["ttft"].append(sends[0] - sent["received_ns"])
        reported["ttft"].append(chunks[0] - row["sent_ns"])
        true["e2e"].append(sends[-1] - sent["received_ns"])
        reported["e2e"].append(chunks[-1] - row["sent_ns"])
        true["itl"].extend(np.diff(sends))
        reported["itl"].extend(np.diff(chunks))
        plan_ns = (point.first_s + point.gap_s * point.tokens_per_chunk * np.arange(len(sends))) * 1e9
        slips.extend(sends - sent["received_ns"] - plan_ns)
    cpu_s, window_s = result.instrument["cpu_s"], result.window.duration_s
    errors: dict[str, Any] = {}
    for metric in reported:
        told, real = quantiles(reported[metric]), quantiles(true[metric])
        errors[f"{metric}_error_s"] = {key: told[key] - real[key] for key in told} if rows and told and real else {}
        errors[f"{metric}_paired_error_s"] = quantiles(np.subtract(reported[metric], true[metric]))
        errors[f"{metric}_reported_s"], errors[f"{metric}_true_s"] = told, real
    return CalibratedPoint(
        load=point,
        requests_ok=len(rows),
        counts=result.counts,
        tokens_per_s=tokens / window_s if window_s else None,
        server_slip_s=quantiles(slips),
        lateness_s={key: result.instrument[f"lateness_{key}_s"] for key in ("p50", "p99", "max")},
        window_s=window_s,
        cpu_s=cpu_s,
        cpu_s_per_token=cpu_s / tokens if tokens else None,
        busiest_cpu_share=result.instrument["busiest_cpu_share"],
        **errors,
    )


def quantiles(values_ns: Sequence[float] | np.ndarray) -> dict[str, float]:
    """p50, p90, p99 and max in seconds; empty for no values."""
    if not len(values_ns):
        return {}
    return {key: float(np.quantile(values_ns, share)) / 1e9 for key, share in QUANTILES.items()}


def calibrate(
    short: bool = True,
    cpus: Sequence[int] | None = None,
    out: Path | None = None,
    server_cpus: Sequence[int] | None = None,
    points: Sequence[Point] | None = None,
    on_point: Callable[[CalibratedPoint], None] = lambda point: None,
    known: Calibration | None = None,
) -> Calibration:
    """Measure the generator on this node, pinned to `cpus`; writes the result to `out` (JSON) and returns it.

    The paced server is pinned to the first of `server_cpus`, or else to a CPU outside `cpus`. Points that an earlier
    calibration, `known`, saw the instrument carry are not measured again.
    """
    grid = list(points if points is not None else SHORT if short else FULL)
    server_cpu = _server_cpu(cpus, server_cpus)
    found = {point.load: point for point in (known.points if known else ()) if carries(point) and point.load in grid}
    missing = [point for point in grid if point not in found]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="servegauge-calibration-") as name:
        folder = Path(name)
        # A server keeps one pace; points that share one share a server.
        for pace in dict.fromkeys(point.pace for point in missing):
            first_s, gap_s, size = pace
            arguments = ["--first-s", str(first_s), "--gap-s", str(gap_s), "--tokens-per-chunk", str(size)]
            with paced_server(arguments, server_cpu, folder) as server:
                here = [point for point in missing if point.pace == pace]
                for point in here:
                    found[point] = steadily(partial(measure, point, server, folder, list(cpus) if cpus else None))
                    on_point(found[point])
                # What was held up is measured once more when the others are done: what did that may be over.
                for point in (point for point in here if not carries(found[point])):
                    again = measure(point, server, folder, list(cpus) if cpus else None)
                    tries = (*found[point].tries, again.ttft_p99_error_s)
                    found[point] = msgspec.structs.replace(min(found[point], again, key=error_of), tries=tries)
                    on_point(found[point])
    done = [found[point] for point in grid]
    result = Calibration(
        short=short,
        cpus=tuple(cpus) if cpus else None,
        server_cpu=server_cpu,
        seconds=time.monotonic() - began,
        limits=limits(done),
        points=tuple(done),
    )
    if out is not None:
        write(out, result)
    return result


def _server_cpu(cpus: Sequence[int] | None, server_cpus: Sequence[int] | None) -> int | None:
    if server_cpus:
        return server_cpus[0]
    others = sorted(os.sched_getaffinity(0) - set(cpus or ()))
    return others[-1] if others and len(os.sched_getaffinity(0)) > 1 else None
