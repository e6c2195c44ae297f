"""NVIDIA's Data Center GPU Manager: which parts of each GPU work, from one `dcgmi dmon` that repeats by itself.

NVML's utilisation is the share of the time in which any kernel ran; these are shares of the GPU's cycles in which its
multiprocessors, tensor cores and memory were active. They are there where DCGM is installed, its host engine runs (as
root) and the GPU can be counted: no guest of a vGPU. Not exercised on hardware of ours: written to dcgmi's own source,
and tested against outputs that people published.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servegauge.node.reader import Unreadable, run_command
from servegauge.node.repeated import Repeated

HZ = 10.0  # as often as DCGM gives new ones
FRESH_S = 0.35  # older ones are of another time than the sample beside them

# Column of cell_tables.GPU_RAW -> (field of dcgm_fields.h, its short name in dcgmi's header)
FIELDS: Mapping[str, tuple[int, str]] = {
    "sm_active": (1002, "SMACT"),
    "tensor_active": (1004, "TENSO"),
    "dram_active": (1005, "DRAMA"),
}


def numbers(listing: str) -> dict[str, int]:
    """UUID -> DCGM's number of a GPU, from `dcgmi discovery -l`: the host engine counts GPUs that a job may not see."""
    found = re.findall(
        r"^\|\s*(\d+)\s*\|[^|]*\|(?:\n\|\s*\|[^|]*\|)*?\n\|\s*\|\s*Device UUID: (\S+)", listing, re.MULTILINE
    )
    return {uuid: int(number) for number, uuid in found}


class DcgmReader:
    """The newest values of each GPU of `uuids`; `missing` says of each column why there are none."""

    def __init__(self, uuids: Sequence[str | None], run: Callable[[list[str]], str] = run_command) -> None:
        self.missing: dict[str, str] = {}
        self._latest: dict[str, tuple[float, dict[str, float | None]]] = {}
        self._columns: list[str | None] = []
        self._known: set[str] = set()
        self._lines: Repeated | None = None
        try:
            known = numbers(run(["dcgmi", "discovery", "-l"]))
            self._uuids = {known[uuid]: uuid for uuid in uuids if uuid in known}
            if not self._uuids:
                raise Unreadable("dcgmi discovery lists none of these GPUs")
            fields = ",".join(str(number) for number, _ in FIELDS.values())
            entities = ",".join(map(str, self._uuids))
            self._lines = Repeated(
                ["dcgmi", "dmon", "-e", fields, "-i", entities, "-d", f"{1000 / HZ:.0f}"], errors=True
            )
        except (Unreadable, OSError) as error:
            self._none(f"DCGM: {error}")

    @property
    def handle(self) -> int | None:
        """What becomes readable when it has printed something."""
        return self._lines.handle if self._lines else None

    def _none(self, reason: str) -> None:
        for column in FIELDS:
            self.missing.setdefault(column, reason)

    def read(self) -> bool:
        """Take what has arrived; false when dcgmi has ended."""
        lines = self._lines.lines() if self._lines else None
        if self._lines is None or lines is None:
            if self._lines is not None:
                self._none(f"dcgmi ended with status {self._lines.status()} while it was read")
            return False
        for line in lines:
            self._take(line.strip())
        return True

    def _take(self, line: str) -> None:
        words = line.split()
        if line.startswith("#"):  # "#Entity   SMACT ..." or, before 3.0, "# Entity  SMACT ..."
            names = {short: column for column, (_, short) in FIELDS.items()}
            self._columns = [names.get(word) for word in line.lstrip("# ").split()[1:]]
        elif "error" in line.lower() or "unable" in line.lower():
            self._none(f"DCGM: {line[:200]}")
        elif re.match(r"GPU\s+\d+\s", line) and len(words) == 2 + len(self._columns) and int(words[1]) in self._uuids:
            values: dict[str, float | None] = {}
            for column, word in zip(self._columns, words[2:], strict=True):
                if column is None:
                    continue
                values[column] = float(word) if re.fullmatch(r"[\d.]+", word) else None
                if values[column] is not None:
                    self._known.add(column)
            self._latest[self._uuids[int(words[1])]] = time.monotonic(), values

    def fill(self, rows: list[dict[str, Any]]) -> None:
        """Add to each of `rows`, samples of this moment, its GPU's last values; None where they are no longer new."""
        now = time.monotonic()
        for row in rows:
            at, values = self._latest.get(row["uuid"] or "", (0.0, {}))
            row |= {column: values.get(column) if now - at <= FRESH_S else None for column in FIELDS}

    def close(self) -> None:
        """End dcgmi; a column without a value gets a reason."""
        if self._lines:
            self._lines.close()
        for column in FIELDS.keys() - self._known:
            self.missing.setdefault(column, "DCGM: dcgmi gave N/A")
