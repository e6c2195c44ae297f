"""nvidia-smi repeating one query: which fields this driver has, what a line of it says, and the process itself.

Not exercised on hardware of ours: written to the documented CSV output, and tested against a program that prints it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from servegauge.node import nvidia_smi
from servegauge.node.reader import Unreadable, run_command
from servegauge.node.repeated import Repeated

# Column of cell_tables.GPU_RAW -> names that drivers have had for it, newest first, and the factor to our unit
FIELDS: dict[str, tuple[tuple[str, ...], float]] = {
    "gpu": (("index",), 1),
    "uuid": (("uuid",), 1),
    "sm_clock_mhz": (("clocks.sm", "clocks.current.sm"), 1),
    "memory_clock_mhz": (("clocks.mem", "clocks.current.memory"), 1),
    "power_w": (("power.draw.instant", "power.draw"), 1),
    "temperature_c": (("temperature.gpu",), 1),
    "utilisation": (("utilization.gpu",), 0.01),
    "memory_used_bytes": (("memory.used",), 2**20),
    "throttle_reasons": (("clocks_event_reasons.active", "clocks_throttle_reasons.active"), 1),
}

# Bits of nvmlClocksEventReasons (nvml.h), with nvidia-smi's names. Those of an idle GPU and of clocks that a user
# set (gpu_idle, applications_clocks_setting, display_clock_setting) are no throttling and are left out.
REASONS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
}
NOT_THROTTLING = 0x1 | 0x2 | 0x100


def reasons(mask: str) -> str | None:
    """`0x...0024` as `sw_power_cap,sw_thermal_slowdown`; empty for none; None where the GPU does not tell."""
    try:
        bits = int(mask.strip(), 0)
    except ValueError:
        return None
    named = [word for bit, word in REASONS.items() if bits & bit]
    unknown = bits & ~(sum(REASONS) | NOT_THROTTLING)
    return ",".join([*named, *([f"0x{unknown:x}"] if unknown else [])])


def parse_line(line: str, columns: Sequence[str]) -> dict[str, Any] | None:
    """One line of `--format=csv,noheader,nounits` as a row without `t_ns`; None where it is no such line."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(columns) or not cells[0].isdigit():
        return None
    row: dict[str, Any] = dict.fromkeys(FIELDS)
    for column, cell in zip(columns, cells, strict=True):
        if column == "throttle_reasons":
            row[column] = reasons(cell)
        elif column == "uuid":
            row[column] = None if cell.startswith("[") or nvidia_smi.error_word(cell) else cell
        elif re.fullmatch(r"-?\d+(\.\d+)?", cell):  # else [N/A], [Not Supported], [Unknown Error]
            value = float(cell) * FIELDS[column][1]
            row[column] = round(value) if column in ("gpu", "memory_used_bytes") else value
    return row


def usable_fields(ask: Callable[[list[str]], str]) -> dict[str, str]:
    """Column -> name of the field that this driver has; fields that it does not know are left out.

    `ask` runs a command, as `node.run_command`. Unreadable where there is no nvidia-smi, no driver or no GPU.
    """
    left = {column: list(names) for column, (names, _) in FIELDS.items()}
    while True:
        chosen = {column: names[0] for column, names in left.items() if names}
        try:
            answer = ask(_query(chosen))
        except Unreadable as refused:
            # Field "clocks_event_reasons.active" is not a valid field to query.
            unknown = re.search(r'"([\w.]+)" is not a valid field', str(refused))
            column = unknown and next((column for column, name in chosen.items() if name == unknown[1]), None)
            if not column or column == "gpu":
                raise
            left[column].pop(0)
            continue
        if not any(parse_line(line, list(chosen)) for line in answer.splitlines()):
            raise Unreadable(f"nvidia-smi answered {answer.strip()[:80]!r}", "nvidia-smi")
        return chosen


def _query(fields: dict[str, str]) -> list[str]:
    return ["nvidia-smi", f"--query-gpu={','.join(fields.values())}", "--format=csv,noheader,nounits"]


class GpuReader:
    """One nvidia-smi that repeats its query."""

    def __init__(self, hz: float) -> None:
        self.rows: list[dict[str, Any]] = []
        self.reason: str | None = None
        self._lines: Repeated | None = None
        try:
            self.fields = usable_fields(run_command)
            self._lines = Repeated([*_query(self.fields), f"--loop-ms={max(1, round(1000 / hz))}"])
        except (Unreadable, OSError) as error:
            self.reason = str(error)

    @staticmethod
    def uuids() -> list[str]:
        """The GPUs' UUIDs; none where the driver does not tell."""
        try:
            return run_command(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]).split()
        except Unreadable:
            return []

    @property
    def handle(self) -> int | None:
        """What becomes readable when it has printed something."""
        return self._lines.handle if self._lines else None

    def read(self) -> bool:
        """Take what has arrived; false when nvidia-smi has ended."""
        if self._lines is None:
            return False
        now, lines = time.monotonic_ns(), self._lines.lines()
        for line in lines or ():
            if row := parse_line(line, list(self.fields)):
                self.rows.append({"t_ns": now, **row, "source": "nvidia-smi"})
        if lines is None:
            self.reason = f"nvidia-smi ended with status {self._lines.status()} while it was read"
        return lines is not None

    def close(self) -> None:
        """End nvidia-smi."""
        if self._lines:
            self._lines.close()
