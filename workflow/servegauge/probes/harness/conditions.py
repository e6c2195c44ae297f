"""Clocks, temperature, power, throttling and stolen time, sampled beside a probe by the process that started it.

A probe's number means little without them: a capped clock looks exactly like a hypervisor's cost. Each series is None
with a reason where it cannot be read.
"""

from __future__ import annotations

import re
import select
import statistics
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from servegauge.node.expectations import cpu_sample, steal_between
from servegauge.node.reader import Node
from servegauge.node.smi_loop import GpuReader

INTERVAL_S = 0.5
GPU_SERIES = ("sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w")


class Conditions:
    """`with Conditions() as conditions: ...` and then `conditions.summary()`; also readable while it runs."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self.interval_s = interval_s
        self.series: dict[str, list[float]] = {"cpu_clock_mhz": [], "cpu_temperature_c": []}
        self._stop = threading.Event()

    def __enter__(self) -> Conditions:
        self._gpus = GpuReader(1 / self.interval_s)
        self._before = cpu_sample()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._after = cpu_sample()
        self.seconds = time.monotonic() - self._began
        self._gpus.close()

    def _sample(self) -> None:
        node = Node()
        while True:
            for name, read in (("cpu_clock_mhz", cpu_clock_mhz), ("cpu_temperature_c", cpu_temperature_c)):
                value = read(node)
                if value is not None:
                    self.series[name].append(value)
            stopped = self._stop.wait(self.interval_s)
            while (handle := self._gpus.handle) is not None and select.select([handle], [], [], 0)[0]:
                if not self._gpus.read():  # it has ended
                    break
            if stopped:
                return

    def summary(self) -> dict[str, Any]:
        """{"seconds", "cpu": {series: spread or None}, "steal", "gpus": [{series: spread or None}], "gpu_reason"}."""
        cpu = {name: spread(values) for name, values in self.series.items()}
        gpus = gpu_summary(self._gpus.rows)
        reason = self._gpus.reason or (None if gpus else "nvidia-smi printed nothing that could be read")
        steal = steal_between(self._before, self._after)
        return {"seconds": self.seconds, "cpu": cpu, "steal": steal, "gpus": gpus, "gpu_reason": reason}


def spread(values: list[float]) -> dict[str, float] | None:
    """Median, least, most and number of `values`; None where there are none."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def cpu_clock_mhz(node: Node) -> float | None:
    """Mean clock of the CPUs now, in MHz, from cpufreq, else from /proc/cpuinfo."""
    found = _thousandths(node, "/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    if not found:
        clocks = re.findall(r"^cpu MHz\s*:\s*([\d.]+)", node.read_or("/proc/cpuinfo") or "", re.MULTILINE)
        found = [float(text) for text in clocks]
    return statistics.mean(found) if found else None


def cpu_temperature_c(node: Node) -> float | None:
    """Hottest thermal zone in degrees Celsius."""
    return max(_thousandths(node, "/sys/class/thermal/thermal_zone*/temp"), default=None)


def _thousandths(node: Node, pattern: str) -> list[float]:
    """Whole numbers of the files that fit `pattern`, divided by 1000; others are left out."""
    texts = (node.read_or(node.name_of(path)) or "" for path in node.glob(pattern))
    return [int(text) / 1e3 for text in texts if text.lstrip("-").isdigit()]


def gpu_summary(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `GpuReader` as one entry per GPU: spread of each number, and every throttle reason that was seen."""
    by_gpu: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_gpu.setdefault(row["gpu"], []).append(row)
    return [
        {
            "gpu": gpu,
            **{name: spread([row[name] for row in samples if row[name] is not None]) for name in GPU_SERIES},
            "throttle_reasons": sorted({row["throttle_reasons"] for row in samples} - {None}),
        }
        for gpu, samples in sorted(by_gpu.items())
    ]
