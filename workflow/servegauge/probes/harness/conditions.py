"""Clocks, temperature, power, throttling and stolen time, sampled beside a probe by the process that started it.

A probe's number means little without them: a capped clock looks exactly like a hypervisor's cost. Each series is None
with a reason where it cannot be read.
"""

from __future__ import annotations

import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from servegauge.node.expectations import cpu_sample, steal_between

INTERVAL_S = 0.5
GPU_FIELDS = (
    "index", "clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "clocks_throttle_reasons.active",
)  # fmt: skip
GPU_COLUMNS = ("gpu", "sm_clock_mhz", "memory_clock_mhz", "temperature_c", "power_w", "throttle_reasons")


class Conditions:
    """`with Conditions() as conditions: ...` and then `conditions.summary()`; also readable while it runs."""

    def __init__(self, interval_s: float = INTERVAL_S, root: Path = Path("/")) -> None:
        self.interval_s, self.root = interval_s, root
        self.series: dict[str, list[float]] = {"cpu_clock_mhz": [], "cpu_temperature_c": []}
        self.gpu_lines: list[str] = []
        self.gpu_reason: str | None = None
        self._stop = threading.Event()

    def __enter__(self) -> Conditions:
        self._before = cpu_sample(self.root)
        self._began = time.monotonic()
        self._gpu = self._start_gpu()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._after = cpu_sample(self.root)
        self.seconds = time.monotonic() - self._began
        if self._gpu is not None:
            self._gpu.terminate()
            self.gpu_lines = self._gpu.communicate()[0].splitlines()

    def _sample(self) -> None:
        while True:
            for name, read in (("cpu_clock_mhz", cpu_clock_mhz), ("cpu_temperature_c", cpu_temperature_c)):
                value = read(self.root)
                if value is not None:
                    self.series[name].append(value)
            if self._stop.wait(self.interval_s):
                return

    def _start_gpu(self) -> subprocess.Popen[str] | None:
        query = f"--query-gpu={','.join(GPU_FIELDS)}"
        argv = ["nvidia-smi", query, "--format=csv,noheader,nounits", f"--loop-ms={int(self.interval_s * 1000)}"]
        try:
            return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError as error:
            self.gpu_reason = f"nvidia-smi cannot be run: {error.strerror}"
            return None

    def summary(self) -> dict[str, Any]:
        """{"seconds", "cpu": {series: spread or None}, "steal", "gpus": [{series: spread or None}], "gpu_reason"}."""
        cpu = {name: spread(values) for name, values in self.series.items()}
        gpus = gpu_summary(self.gpu_lines)
        reason = self.gpu_reason or (None if gpus else "nvidia-smi printed nothing that could be read")
        steal = steal_between(self._before, self._after)
        return {"seconds": self.seconds, "cpu": cpu, "steal": steal, "gpus": gpus, "gpu_reason": reason}


def spread(values: list[float]) -> dict[str, float] | None:
    """Median, least, most and number of `values`; None where there are none."""
    if not values:
        return None
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def cpu_clock_mhz(root: Path) -> float | None:
    """Mean clock of the CPUs now, in MHz, from cpufreq, else from /proc/cpuinfo."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    found = _numbers(files, lambda text: float(text) / 1e3)
    if not found:
        lines = _text(root / "proc/cpuinfo").splitlines()
        found = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return statistics.mean(found) if found else None


def cpu_temperature_c(root: Path) -> float | None:
    """Hottest thermal zone in degrees Celsius."""
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    return max(_numbers(zones, lambda text: float(text) / 1e3), default=None)


def gpu_summary(lines: Iterable[str]) -> list[dict[str, Any]]:
    """nvidia-smi's looped CSV as one entry per GPU: spread of each number, and every throttle reason that was seen."""
    rows: dict[str, list[list[str]]] = {}
    for line in lines:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == len(GPU_COLUMNS) and cells[0].isdigit():
            rows.setdefault(cells[0], []).append(cells)
    summary = []
    for gpu, samples in sorted(rows.items(), key=lambda item: int(item[0])):
        entry: dict[str, Any] = {"gpu": int(gpu)}
        for column, name in enumerate(GPU_COLUMNS[1:-1], start=1):
            entry[name] = spread([float(cells[column]) for cells in samples if _is_number(cells[column])])
        entry["throttle_reasons"] = sorted({cells[-1] for cells in samples})
        summary.append(entry)
    return summary


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _numbers(files: Iterable[Path], convert: Callable[[str], float]) -> list[float]:
    texts = (_text(file).strip() for file in files)
    return [convert(text) for text in texts if text.lstrip("-").isdigit()]
