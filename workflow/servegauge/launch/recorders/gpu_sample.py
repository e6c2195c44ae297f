"""The node while it is under load: its GPUs' clocks, power, temperature, throttling; its CPUs' clocks and steal.

`Sampler` runs `main` in a process of its own. GPUs are read by NVML ten times a second, and where that is not there
from one `nvidia-smi` that repeats its query by itself; the CPUs from /proc and /sys. Rows stay in memory until `stop`,
which writes `GPU_RAW` (where there are GPUs) and, beside it, `node.parquet` (`NODE_RAW`). `t_ns` is
CLOCK_MONOTONIC, shifted by the `zero_ns` given to `stop`, such as the start of the cell's window. What happened is
evidence beside the measurement, not the measurement: nothing here raises.

The job goes in on standard input as one line of JSON; a second line, `zero_ns`, ends it; the end of the input without
it, because the process that started this one died, ends it without writing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servegauge.contract.flag_registry.clocks_throttled import THROTTLING
from servegauge.launch.recorder import ProcessRecorder
from servegauge.node import nvml, process_tree
from servegauge.node.dcgm import DcgmReader
from servegauge.node.node_facts import cpu_shares, cpu_times
from servegauge.node.reader import Node, Unreadable
from servegauge.node.smi_loop import GpuReader

if TYPE_CHECKING:
    from servegauge.launch.live import LiveLaunch

SAMPLE_HZ = 2.0
NODE_FILE = "node.parquet"
MOST_CPUS = 32  # clocks are read from at most this many CPUs, spread evenly: reading one costs an interrupt on some


class NodeReader:
    """CPU clocks, steal and load, and the servers' memory, each None where this node does not tell."""

    def __init__(self, node: Node | None = None, owner: int | None = None, servers: Sequence[int] = ()) -> None:
        self.node = node or Node()
        self._servers = servers  # their processes
        self._owner = owner  # the launch's process: what it and its children use is ours
        self._others = None if owner is None else process_tree.Others(owner, self.node)
        self.rows: list[dict[str, Any]] = []
        clocks = self.node.glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        self._clocks = clocks[:: max(1, -(-len(clocks) // MOST_CPUS))]
        self._zones = self.node.glob("/sys/class/thermal/thermal_zone*/temp")
        self._before = self._stat()

    def _stat(self) -> tuple[dict[str, int], dict[str, int]]:
        """(ticks of all CPUs, counters of /proc/stat); empty where it cannot be read."""
        text = self.node.read_or("/proc/stat") or ""
        try:
            times = cpu_times(text)["cpu"]
        except (Unreadable, ValueError):
            return {}, {}
        words = [line.split() for line in text.splitlines() if line.startswith(("ctxt ", "procs_running "))]
        return times, {name: int(value) for name, value in words}

    @property
    def others(self) -> dict[str, Any]:
        """Since the start: share of the node's CPU time that processes had which are not the owner's; its CPUs."""
        found: dict[str, Any] = {"others_share": None, "cpus": None, "cpus_allowed": None}
        if self._owner is not None and self._others is not None:
            found["others_share"] = self._others.share()
            with contextlib.suppress(OSError):
                found |= {"cpus": os.cpu_count(), "cpus_allowed": len(os.sched_getaffinity(self._owner))}
        return found

    def read(self) -> None:
        """Add a row."""
        row: dict[str, Any] = {"t_ns": time.monotonic_ns()}
        clocks = [value / 1000 for path in self._clocks if (value := _number(path)) is not None]
        if not self._clocks:
            found = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", self.node.read_or("/proc/cpuinfo") or "", re.MULTILINE)
            clocks = [float(text) for text in found]
        row["cpu_mhz_mean"] = statistics.fmean(clocks) if clocks else None
        row["cpu_mhz_min"] = min(clocks, default=None)
        (before, counted), (times, counters) = self._before, self._stat()
        self._before = times, counters
        row["steal_share"], row["busy_share"] = cpu_shares(before, times)
        load = (self.node.read_or("/proc/loadavg") or "").split()
        row["load_1min"] = float(load[0]) if load and re.fullmatch(r"[\d.]+", load[0]) else None
        row["running"] = counters.get("procs_running")
        both = "ctxt" in counters and "ctxt" in counted
        row["context_switches"] = counters["ctxt"] - counted["ctxt"] if both else None
        available = re.search(r"^MemAvailable:\s+(\d+)", self.node.read_or("/proc/meminfo") or "", re.MULTILINE)
        row["memory_available_bytes"] = int(available[1]) * 1024 if available else None
        zones = [value / 1000 for path in self._zones if (value := _number(path)) is not None]
        row["temperature_c"] = max(zones, default=None)
        pages = [(self.node.read_or(f"/proc/{pid}/statm") or "").split()[1:2] for pid in self._servers]
        held = [int(one) for found in pages for one in found]  # a process that ended holds none
        row["server_memory_bytes"] = sum(held) * os.sysconf("SC_PAGESIZE") if held else None
        self.rows.append(row)


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # a CPU that went offline, a zone that is asleep
        return None


# ---------------------------------------------------------------- the process


def summary(gpu_rows: Sequence[dict[str, Any]], node_rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the window's rows (`t_ns` from 0) say in short; None where there is nothing.

    {"gpus": {number: {"samples", "throttled_share", "power_cap_share", "sm_clock_mhz": {"min", "median", "max"}, ...}},
    "node": {"samples", "steal_share", "busy_share", "cpu_mhz_mean": {...}, "cpu_mhz_min": {...}}}. Shares are of
    samples, 0 to 1; throttled: a reason of THROTTLING was active.
    """
    gpus: dict[str, Any] = {}
    window = [row for row in gpu_rows if row["t_ns"] >= 0]
    for number in sorted({row["gpu"] for row in window}):
        rows = [row for row in window if row["gpu"] == number]
        told = [set(row["throttle_reasons"].split(",")) for row in rows if row["throttle_reasons"] is not None]
        gpus[str(number)] = {
            "samples": len(rows),
            "throttled_share": sum(bool(one & THROTTLING) for one in told) / len(told) if told else None,
            "power_cap_share": sum("sw_power_cap" in one for one in told) / len(told) if told else None,
            **{name: _spread(rows, name) for name in ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c")},
        }
    rows = [row for row in node_rows if row["t_ns"] >= 0]
    shares = {}
    for name in ("steal_share", "busy_share"):
        found = [row[name] for row in rows if row[name] is not None]
        shares[name] = statistics.fmean(found) if found else None
    clocks = {name: _spread(rows, name) for name in ("cpu_mhz_mean", "cpu_mhz_min")}
    return {"gpus": gpus, "node": {"samples": len(rows), **shares, **clocks}}


def _spread(rows: Sequence[dict[str, Any]], name: str) -> dict[str, float] | None:
    found = [row[name] for row in rows if row[name] is not None]
    return {"min": min(found), "median": statistics.median(found), "max": max(found)} if found else None


def _write(rows: list[dict[str, Any]], schema: Any, out: Path) -> None:
    import pyarrow as pa

    from servegauge.contract.columns import write

    write(pa.Table.from_pylist(rows, schema=schema), out)


def main() -> int:
    """The sampling process; see the module's docstring."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent process decides
    orders = FileIO(sys.stdin.fileno(), closefd=False)  # not buffered: select sees what is left
    job = json.loads(orders.readline())
    if job["cpus"]:
        with contextlib.suppress(OSError):  # CPUs that this job may not use: placement is checked elsewhere
            os.sched_setaffinity(0, job["cpus"])
    node = NodeReader(owner=job.get("owner"), servers=job.get("servers") or ())
    gpus = gpu_reader(job["hz"], job.get("owner"))
    parts = part_reader(gpus) if job.get("dcgm") else None
    readers = [one for one in (gpus, parts) if one is not None]
    try:
        ended, missed = _sample(orders, node, gpus, job["hz"], parts)
        for one in readers:
            one.close()
        if ended is None:
            return 0
        print(json.dumps(_finish(node, gpus, ended, missed, Path(job["out"]), parts)), flush=True)
    finally:
        for one in readers:
            one.close()
    return 0


def gpu_reader(hz: float, owner: int | None) -> nvml.NvmlReader | GpuReader:
    """NVML where it shows GPUs; else nvidia-smi, whose `reason` then has both."""
    direct = nvml.NvmlReader(owner)
    if direct.reason is None:
        return direct
    looped = GpuReader(hz)
    if looped.reason is not None:
        looped.reason = f"{looped.reason}; {direct.reason}"
    return looped


def part_reader(gpus: nvml.NvmlReader | GpuReader) -> DcgmReader | None:
    """DCGM's counters of the GPUs that `gpus` shows; None where it shows none."""
    uuids = [uuid for _, _, uuid in gpus.gpus] if isinstance(gpus, nvml.NvmlReader) else gpus.uuids()
    return DcgmReader(uuids) if uuids else None


def _sample(
    orders: FileIO, node: NodeReader, gpus: nvml.NvmlReader | GpuReader, hz: float, parts: DcgmReader | None = None
) -> tuple[int | None, int]:
    """Read until `orders` say `zero_ns` or ends: (zero_ns or None, ticks missed)."""
    selector = selectors.DefaultSelector()
    selector.register(orders, selectors.EVENT_READ)
    direct = gpus if isinstance(gpus, nvml.NvmlReader) else None
    looped = [one for one in (gpus, parts) if isinstance(one, GpuReader | DcgmReader)]
    printing = {one.handle: one for one in looped if one.handle is not None}
    for handle in printing:
        selector.register(handle, selectors.EVENT_READ)
    each = max(1, round(nvml.HZ / hz)) if direct is not None else 1  # readings of the GPUs to one of the node
    hz *= each
    start, tick, missed, filled = time.monotonic(), 1, 0, 0
    while True:
        left = start + tick / hz - time.monotonic()
        for key, _ in selector.select(max(0.0, left)):
            if key.fileobj is orders:
                line = orders.readline().strip()
                node.read()
                if direct is not None:
                    direct.read()
                if parts is not None:
                    parts.fill(gpus.rows[filled:])
                return (int(line) if line else None), missed
            if not printing[key.fd].read():
                selector.unregister(key.fileobj)
        if time.monotonic() >= start + tick / hz:
            if direct is not None:
                direct.read()
            if tick % each == 0:
                node.read()
            following = int((time.monotonic() - start) * hz) + 1
            missed += following - tick - 1
            tick = following
        if parts is not None:
            parts.fill(gpus.rows[filled:])
            filled = len(gpus.rows)


def _finish(
    node: NodeReader,
    gpus: nvml.NvmlReader | GpuReader,
    zero_ns: int,
    missed: int,
    out: Path,
    parts: DcgmReader | None = None,
) -> dict[str, Any]:
    """Shift the stamps, write both files; returns what is printed on standard output."""
    from servegauge.contract.cell_tables import GPU_RAW, NODE_RAW

    for row in [*node.rows, *gpus.rows]:
        row["t_ns"] -= zero_ns
    others = node.others
    report = {**summary(gpus.rows, node.rows), "gpu_reason": gpus.reason, "missed_ticks": missed, "files": []}
    report["node"] |= others
    missing = gpus.missing if isinstance(gpus, nvml.NvmlReader) else {}
    if missing or parts:
        report["gpu_missing"] = {**missing, **(parts.missing if parts else {})}
    try:
        if gpus.rows:
            _write(gpus.rows, GPU_RAW, out)
            report["files"].append(out.name)
        _write(node.rows, NODE_RAW, out.with_name(NODE_FILE))
        report["files"].append(NODE_FILE)
    except OSError as error:
        report["error"] = f"{out.parent} could not be written: {error.strerror or error}"
    return report


class Sampler(ProcessRecorder):
    """The node's state, sampled in a process of its own: GPUs in `gpu.parquet`, CPUs in `node.parquet`."""

    name = "sampler"
    records = "clocks, power, temperature and throttling of the GPUs, clocks and steal of the CPUs, memory"
    position = 20

    def __init__(self) -> None:
        super().__init__()
        self._gpus: list[str] = []  # those of the launch's servers, as they were given: numbers or UUIDs

    @classmethod
    def tables(cls) -> Mapping[str, Any]:
        from servegauge.contract.cell_tables import GPU_RAW, NODE_RAW

        return {"gpu": GPU_RAW, "node": NODE_RAW}

    def start(self, live: LiveLaunch, folder: Path, cpus: Sequence[int]) -> None:
        from servegauge.launch.server import marked  # here: the sampling process has no use for it

        ours = live.framework.weights != "none"  # a server that ran before counts as others' work
        if all(server.context.nodes == 1 for server in live.servers):  # else GPUs of other nodes are in it, too
            self._gpus = sorted({gpu for server in live.servers for gpu in server.context.gpus})
        # A profiler and DCGM may want the same counters of the GPU.
        owner, running = (os.getpid(), live.servers) if ours else (None, [])
        servers = [pid for one in running for pid in marked(one.mark) if pid != one.process.pid]  # which is the guard
        self.sample(folder / "gpu.parquet", SAMPLE_HZ, cpus, owner, not live.launch.trace, servers)

    def sample(
        self, out: Path, hz: float, cpus: Sequence[int] = (), owner: int | None = None, dcgm: bool = False,
        servers: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Start sampling `hz` times a second. `out`: Parquet file of the GPUs; node.parquet is written beside it.

        `owner`: the process whose own and whose children's CPU time is ours; None where the server is none of them.
        `dcgm`: ask it too, where it is there. `servers`: their processes, whose memory is summed.
        """
        if not hz > 0:
            raise ValueError(f"hz is {hz}, it must be above 0")
        self._out = out
        self._begin({"out": str(out.absolute()), "hz": hz, "cpus": list(cpus), "owner": owner, "dcgm": dcgm,
                     "servers": list(servers)})  # fmt: skip

    def stop(self, zero_ns: int = 0) -> Path | None:
        """Read a last time and write; returns the GPUs' file, None where there is none (`report` has the reason)."""
        super().stop(zero_ns)
        if self._gpus:
            self.report["launch_gpus"] = self._gpus
        return self._out if self._out is not None and self._out.name in self.report.get("files", ()) else None


if __name__ == "__main__":
    raise SystemExit(main())
