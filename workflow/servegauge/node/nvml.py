"""NVIDIA's management library, asked directly: what each GPU is doing, several times a second, without a program.

NVML comes with the GPU's driver; its Python names (`pynvml`, of nvidia-ml-py) are in envs/driver. What a GPU, a MIG
slice or a vGPU guest does not report is None, with NVML's own message in `missing`. Not exercised on hardware of ours:
written to nvml.h, and tested against a module that answers as recorded. `smi_loop.py` is used where NVML is not there.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from servegauge.node import process_tree
from servegauge.node.smi_loop import reasons

HZ = 10.0
PROCESSES_EVERY = 10  # readings; finding whose a process is costs a walk through /proc
ALL_LINKS = 0xFFFFFFFF  # scope of the NVLink counters: the sum over a GPU's links
NOT_SUPPORTED = "Not Supported"

# Column of cell_tables.GPU_RAW -> (field of nvml.h, scope, factor to our unit)
FIELDS: Mapping[str, tuple[int, int, float]] = {
    "power_average_w": (185, 0, 1e-3),
    "power_w": (186, 0, 1e-3),
    "pcie_tx_bytes": (197, 0, 1),
    "pcie_rx_bytes": (198, 0, 1),
    "nvlink_tx_bytes": (138, ALL_LINKS, 1024),
    "nvlink_rx_bytes": (139, ALL_LINKS, 1024),
}
VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # members of nvmlValue_t by nvmlValueType_t
INTEGERS = frozenset({"pcie_tx_bytes", "pcie_rx_bytes", "nvlink_tx_bytes", "nvlink_rx_bytes"})

COLUMNS = (
    "gpu", "uuid", "sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c", "utilisation", "memory_used_bytes",
    "throttle_reasons", "power_average_w", "energy_j", "memory_utilisation", "pcie_tx_bytes", "pcie_rx_bytes",
    "nvlink_tx_bytes", "nvlink_rx_bytes", "ecc_corrected", "ecc_uncorrected", "other_processes", "source",
)  # fmt: skip


class NvmlReader:
    """Every GPU that NVML shows, read at each `read()`; `reason` says why there are none."""

    def __init__(self, owner: int | None = None, nvml: Any = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.missing: dict[str, str] = {}  # column -> NVML's message, of the first GPU that did not report it
        self.reason: str | None = None
        self._owner, self._turn = owner, 0
        self.gpus: list[tuple[int, Any, str | None]] = []
        self._refused: set[tuple[int, str]] = set()  # what a GPU does not support
        self._others: dict[int, int | None] = {}
        try:
            self._nvml = nvml or importlib.import_module("pynvml")
        except ImportError as error:
            self.reason = f"NVML's Python package is not installed: {error}"
            return
        try:
            self._nvml.nvmlInit()
            for index in range(self._nvml.nvmlDeviceGetCount()):
                try:
                    handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                except self._nvml.NVMLError as error:  # lost; the others can still be read
                    self.missing["gpu"] = f"GPU {index}: {error}"
                    continue
                self.gpus.append((index, handle, self._text(self._nvml.nvmlDeviceGetUUID, handle)))
            if not self.gpus:
                self.reason = f"NVML: {self.missing['gpu']}" if "gpu" in self.missing else "NVML shows no GPU"
        except self._nvml.NVMLError as error:
            self.reason = f"NVML: {error}"

    def _text(self, function: Callable[[Any], Any], handle: Any) -> str | None:
        try:
            value = function(handle)
        except self._nvml.NVMLError as error:
            self.missing.setdefault("uuid", str(error))
            return None
        return value.decode() if isinstance(value, bytes) else str(value)

    def read(self) -> None:
        """Add a row for each GPU."""
        for index, handle, uuid in self.gpus:
            row: dict[str, Any] = {"t_ns": time.monotonic_ns(), **dict.fromkeys(COLUMNS)}
            row |= {"gpu": index, "uuid": uuid, "source": "nvml"}
            self._fields(row, handle)
            for columns, ask in self._questions(handle).items():
                answers = self._ask(index, columns, ask)
                row |= {name: value for name, value in zip(columns, answers, strict=True) if value is not None}
            if row["power_w"] is None:
                (row["power_w"],) = self._ask(index, ("power_w",), partial(self._power, handle))
            if self._turn % PROCESSES_EVERY == 0:
                (self._others[index],) = self._ask(index, ("other_processes",), partial(self._foreign, handle))
            row["other_processes"] = self._others[index]
            self.rows.append(row)
        self._turn += 1

    def _ask(self, index: int, columns: tuple[str, ...], ask: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
        """What `ask` answers for `columns`; Nones where NVML refuses, with its message kept."""
        nothing = (None,) * len(columns)
        if (index, columns[0]) in self._refused:
            return nothing
        try:
            return ask()
        except self._nvml.NVMLError as error:
            for column in columns:
                self.missing.setdefault(column, str(error))
            if str(error) == NOT_SUPPORTED:
                self._refused.add((index, columns[0]))
            return nothing

    def _questions(self, handle: Any) -> dict[tuple[str, ...], Callable[[], tuple[Any, ...]]]:
        nvml = self._nvml

        def used() -> tuple[float, float]:
            rates = nvml.nvmlDeviceGetUtilizationRates(handle)
            return rates.gpu / 100, rates.memory / 100

        def throttled() -> tuple[str | None]:
            ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
            try:
                mask = (ask or nvml.nvmlDeviceGetCurrentClocksThrottleReasons)(handle)
            except nvml.NVMLError as error:
                if ask is None or "Function Not Found" not in str(error):
                    raise
                mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)  # drivers before 535 have the old name
            return (reasons(hex(mask)),)

        def errors(kind: int) -> Callable[[], tuple[int]]:
            return lambda: (nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_VOLATILE_ECC),)

        return {
            ("sm_clock_mhz",): lambda: (float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),),
            ("memory_clock_mhz",): lambda: (float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),),
            ("temperature_c",): lambda: (float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),),
            ("utilisation", "memory_utilisation"): used,
            ("memory_used_bytes",): lambda: (int(nvml.nvmlDeviceGetMemoryInfo(handle).used),),
            ("throttle_reasons",): throttled,
            ("energy_j",): lambda: (nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3,),
            ("ecc_corrected",): errors(nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("ecc_uncorrected",): errors(nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        }

    def _fields(self, row: dict[str, Any], handle: Any) -> None:
        """The counters that NVML identifies by number; each reports whether this GPU has it."""
        try:
            values = self._nvml.nvmlDeviceGetFieldValues(
                handle, [(field, scope) for field, scope, _ in FIELDS.values()]
            )
        except self._nvml.NVMLError as error:
            for column in FIELDS:
                self.missing.setdefault(column, str(error))
            return
        for (column, (_, _, factor)), value in zip(FIELDS.items(), values, strict=True):
            if value.nvmlReturn:
                self.missing.setdefault(column, str(self._nvml.NVMLError(value.nvmlReturn)))
            else:
                number = getattr(value.value, VALUES[value.valueType]) * factor
                row[column] = int(number) if column in INTEGERS else float(number)

    def _power(self, handle: Any) -> tuple[float]:
        return (self._nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,)

    def _foreign(self, handle: Any) -> tuple[int | None]:
        """Processes on the GPU that neither are nor descend from the owner; None where that is unknown.

        In a container NVML may name processes by numbers that mean nothing here: then none of them is ours.
        """
        pids = {process.pid for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)}
        ours = process_tree.family(self._owner) if self._owner is not None else set()
        return (len(pids - ours) if pids & ours else None,)

    def close(self) -> None:
        """Shut NVML down."""
        if self.gpus:
            self.gpus = []
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
