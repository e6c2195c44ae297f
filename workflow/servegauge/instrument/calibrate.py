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
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from servegauge.base.errors import UserError
from servegauge.base.files import write_json
from servegauge.base.http import direct_opener
from servegauge.contract.spec import Load
from servegauge.instrument.coordinator import LoadJob, LoadResult, run_load

VERSION = 2  # 1: first published form; 2: with ramp, window and tail, as cells are measured
TTFT_ERROR_LIMIT_S = 0.001  # what "carries a load" means: the p99 TTFT error stays below
RAMP_S = 0.3  # of an open loop's point: several of its answers
NOISY, TRIES = 0.5, 3  # a point with an error of more than this part of the limit is measured so often
REACH = 2.0  # a load up to this many times a calibrated one is taken to be as well measured
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
_START_S = 20.0
_TOKEN = "word "  # about one token of prompt


@dataclass(frozen=True)
class Point:
    """One load: closed loop with `streams`, or open loop with `rate_rps`. Times in seconds."""

    streams: int | None = None
    rate_rps: float | None = None
    requests: int = 16
    output_tokens: int = 16
    prompt_tokens: int = 64
    first_s: float = 0.02
    gap_s: float = 0.01
    tokens_per_chunk: int = 1
    workers: int = 1

    @property
    def e2e_s(self) -> float:
        """How long the paced server takes for a request, in seconds."""
        return self.first_s + self.gap_s * (self.output_tokens - 1)

    @property
    def pace(self) -> tuple[float, float, int]:
        return self.first_s, self.gap_s, self.tokens_per_chunk

    @property
    def words(self) -> str:
        load = f"{self.streams} streams" if self.streams is not None else f"{self.rate_rps:g} req/s"
        return f"{load}, {self.prompt_tokens} + {self.output_tokens} tokens"


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


def short_points(prompt_tokens: float | None = None) -> tuple[Point, ...]:
    """The points of a short calibration, with one more where prompts of `prompt_tokens` are beyond the reach of all."""
    if not prompt_tokens or prompt_tokens <= REACH * max(point.prompt_tokens for point in SHORT):
        return SHORT
    return (*SHORT, _closed(8, 3, prompt_tokens=math.ceil(prompt_tokens)))


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
        *arguments,
    ]
    if cpu is not None:
        argv += ["--cpu", str(cpu)]
    with log.open("ab") as stderr, subprocess.Popen(argv, stderr=stderr) as process:
        try:
            deadline = time.monotonic() + _START_S
            while not (port_file.exists() and port_file.read_text()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise UserError(f"the paced server did not start: {log.read_text().strip() or 'it said nothing'}")
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


def measure(point: Point, server: PacedServer, folder: Path, cpus: list[int] | None) -> dict[str, Any]:
    """Run one point and compare with the server's log."""
    job = LoadJob(
        base_urls=[server.url],
        workload=str(write_workload(point, folder / "workload.parquet")),
        out=str(folder),
        model="paced",
        phase="window",
        mode="open" if point.streams is None else "closed",
        concurrency=point.streams,
        ramp_s=None if point.rate_rps is None else RAMP_S,
        expected_e2e_s=point.e2e_s,
        timeout_s=60.0,
        cpus=cpus,
        workers=point.workers,
        cell="calibration",
        run_id="",  # the paced server forgets what it did before
    )
    server.truth()
    result = run_load(job)
    return {"load": asdict(point), **compare(result, server.truth(), point)}


def steadily(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measured` gives; where that is noisy, the one of `TRIES` with the median of the p99 TTFT errors.

    A point of a short calibration rests on a hundred requests: one of them that something else held up is its p99.
    `tries` has the error of each.
    """
    found = [measured()]
    said = found[0].get("ttft_error_s") or {}
    # Where nine in ten are off as well, that is no noise, and trying again would only take longer.
    noisy = not carries(found[0], NOISY * TTFT_ERROR_LIMIT_S) and abs(said.get("p90") or 0.0) < TTFT_ERROR_LIMIT_S
    while noisy and len(found) < TRIES:
        found.append(measured())

    def error(point: Mapping[str, Any]) -> float:
        said = (point.get("ttft_error_s") or {}).get("p99")
        return math.inf if said is None else abs(said)

    chosen = sorted(found, key=error)[(len(found) - 1) // 2]
    return {**chosen, "tries": [(one.get("ttft_error_s") or {}).get("p99") for one in found]}


def compare(result: LoadResult, truth: Mapping[str, Mapping[str, Any]], point: Point) -> dict[str, Any]:
    """Reported against true: see the module's text."""
    import pyarrow.parquet as pq

    reported: dict[str, list[float]] = {"ttft": [], "itl": [], "e2e": []}
    true: dict[str, list[float]] = {"ttft": [], "itl": [], "e2e": []}
    slips: list[float] = []
    tokens = 0
    rows = [row for row in pq.read_table(result.requests).to_pylist() if row["status"] == "ok"]
    rows = [row for row in rows if row["phase"] == "window"]
    for row in rows:
        said = truth[row["request_id"]]
        sends, chunks = np.array(said["sends_ns"]), np.array(row["chunk_ns"])
        tokens += row["output_tokens"]
        true["ttft"].append(sends[0] - said["received_ns"])
        reported["ttft"].append(chunks[0] - row["sent_ns"])
        true["e2e"].append(sends[-1] - said["received_ns"])
        reported["e2e"].append(chunks[-1] - row["sent_ns"])
        true["itl"].extend(np.diff(sends))
        reported["itl"].extend(np.diff(chunks))
        plan_ns = (point.first_s + point.gap_s * point.tokens_per_chunk * np.arange(len(sends))) * 1e9
        slips.extend(sends - said["received_ns"] - plan_ns)
    cpu_s, window_s = result.instrument["cpu_s"], result.window_s
    outcome: dict[str, Any] = {
        "requests_ok": len(rows),
        "counts": result.counts,
        "tokens_per_s": tokens / window_s if window_s else None,
        "server_slip_s": quantiles(slips),
        "lateness_s": {key: result.instrument[f"lateness_{key}_s"] for key in ("p50", "p99", "max")},
        "window_s": window_s,
        "cpu_s": cpu_s,
        "cpu_s_per_token": cpu_s / tokens if tokens else None,
        "busiest_cpu_share": result.instrument["busiest_cpu_share"],
    }
    for metric in reported:
        said, real = quantiles(reported[metric]), quantiles(true[metric])
        outcome[f"{metric}_error_s"] = {key: said[key] - real[key] for key in said} if rows and said and real else {}
        outcome[f"{metric}_paired_error_s"] = quantiles(np.subtract(reported[metric], true[metric]))
        outcome[f"{metric}_reported_s"], outcome[f"{metric}_true_s"] = said, real
    return outcome


def quantiles(values_ns: Sequence[float] | np.ndarray) -> dict[str, float]:
    """p50, p90, p99 and max in seconds; empty for no values."""
    if not len(values_ns):
        return {}
    return {key: float(np.quantile(values_ns, share)) / 1e9 for key, share in QUANTILES.items()}


def limits(points: Sequence[Mapping[str, Any]], most_s: float = TTFT_ERROR_LIMIT_S) -> dict[str, Any]:
    """The highest load of each kind up to which every measured point keeps its p99 TTFT error below `most_s`.

    None where not even the lowest one does. `*_tried` is the highest that was measured.
    """
    found: dict[str, Any] = {"ttft_p99_error_s": most_s, "tokens_per_s": None}
    for kind in ("streams", "rate_rps"):
        family = sorted((point for point in points if point["load"][kind] is not None), key=lambda p: p["load"][kind])
        carried = None
        for point in family:
            if not carries(point, most_s):
                break
            carried = point["load"][kind]
            found["tokens_per_s"] = max(found["tokens_per_s"] or 0.0, point["tokens_per_s"] or 0.0)
        found[kind] = carried
        found[f"{kind}_tried"] = family[-1]["load"][kind] if family else None
    return found


def carries(point: Mapping[str, Any], most_s: float = TTFT_ERROR_LIMIT_S) -> bool:
    """True where the instrument's p99 TTFT error at this point is below `most_s`, in either direction."""
    error = (point.get("ttft_error_s") or {}).get("p99")
    return error is not None and abs(error) < most_s


def calibrate(
    short: bool = True,
    cpus: Sequence[int] | None = None,
    out: Path | None = None,
    server_cpus: Sequence[int] | None = None,
    points: Sequence[Point] | None = None,
    on_point: Callable[[int, int, dict[str, Any]], None] = lambda number, total, point: None,
) -> dict[str, Any]:
    """Measure the generator on this node, pinned to `cpus`; writes the result to `out` (JSON) and returns it.

    The paced server is pinned to the first of `server_cpus`, or else to a CPU outside `cpus`.
    """
    grid = list(points if points is not None else SHORT if short else FULL)
    server_cpu = _server_cpu(cpus, server_cpus)
    began, done = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="servegauge-calibration-") as name:
        folder = Path(name)
        # A server keeps one pace; points that share one share a server.
        for pace in dict.fromkeys(point.pace for point in grid):
            first_s, gap_s, size = pace
            arguments = ["--first-s", str(first_s), "--gap-s", str(gap_s), "--tokens-per-chunk", str(size)]
            with paced_server(arguments, server_cpu, folder) as server:
                for point in (point for point in grid if point.pace == pace):
                    one = partial(measure, point, server, folder, list(cpus) if cpus else None)
                    done.append(steadily(one))
                    on_point(len(done), len(grid), done[-1])
    result = {
        "version": VERSION,
        "short": short,
        "cpus": list(cpus) if cpus else None,
        "server_cpu": server_cpu,
        "seconds": time.monotonic() - began,
        "limits": limits(done),
        "points": done,
    }
    if out is not None:
        write_json(out, result)
    return result


def _server_cpu(cpus: Sequence[int] | None, server_cpus: Sequence[int] | None) -> int | None:
    if server_cpus:
        return server_cpus[0]
    others = sorted(os.sched_getaffinity(0) - set(cpus or ()))
    return others[-1] if others and len(os.sched_getaffinity(0)) > 1 else None


def nearest(
    calibration: Mapping[str, Any] | None,
    load: Load,
    tokens_per_s: float | None = None,
    prompt_tokens: float | None = None,
) -> dict[str, Any] | None:
    """The calibrated point nearest to `load`, on logarithmic scales; None without calibration.

    Axes: streams or rate (of a burst: its size, as streams), and as far as they are known tokens per second and prompt
    length. The farthest axis says how far a point is. Two keys are added: `beyond`, true where the instrument did not
    carry that point on this node, or where an axis of the load is more than `REACH` times the highest at which it was
    seen to carry; `beyond_axis`, the name of that axis, its value and the highest carried one.
    """
    size, kind = _size(load)
    points = list((calibration or {}).get("points", ()))
    family = [point for point in points if point["load"][kind] is not None]
    if calibration is None or not family:
        return None
    asked: dict[str, float] = {kind: size}
    asked |= {"tokens_per_s": tokens_per_s} if tokens_per_s else {}
    asked |= {"prompt_tokens": prompt_tokens} if prompt_tokens else {}

    def distance(point: Mapping[str, Any]) -> float:
        known = {name: _axis(point, name) for name in asked}
        return max(abs(math.log(asked[name] / value)) for name, value in known.items() if value)

    point = min(family, key=distance)
    highest = {kind: calibration["limits"][kind]}
    for name in asked.keys() - {kind}:  # of any kind of load: tokens and bytes are the same in both
        seen = [_axis(one, name) for one in points]
        carried = [value for one, value in zip(points, seen, strict=True) if value and carries(one)]
        # A calibration of an older version says nothing of this axis.
        highest[name] = max(carried) if carried else None if any(seen) else asked[name]
    over = {
        name: (asked[name], highest[name]) for name in asked if not highest[name] or asked[name] > REACH * highest[name]
    }
    worst = max(over, key=lambda name: over[name][0] / (over[name][1] or 1e-9), default=None)
    axis = None if worst is None else {"axis": worst, "value": over[worst][0], "carried": over[worst][1]}
    return {**point, "beyond": axis is not None or not carries(point), "beyond_axis": axis}


def _axis(point: Mapping[str, Any], name: str) -> float | None:
    """Where a point stands on an axis; None where it does not tell."""
    return point.get(name) if name == "tokens_per_s" else point["load"].get(name)


def workers_needed(calibration: Mapping[str, Any] | None, load: Load) -> int:
    """How many generator processes carry `load`, by calibration: one, or more where it and the CPUs say so."""
    if calibration is None:
        return 1
    size, kind = _size(load)
    carried = calibration["limits"][kind]
    cpus = calibration["cpus"]
    if carried is None or cpus is None:
        return 1
    return max(1, min(len(cpus), math.ceil(size / carried)))


def _size(load: Load) -> tuple[float, str]:
    """How large a load is, and in which measure."""
    if load.rate_rps is not None:
        return load.rate_rps, "rate_rps"
    return load.concurrency or load.burst or 1, "streams"
