"""A traced cell: its load once more, on a server under a profiler. Saved whole or not at all, away from the cells.

What is kept is the profiler's own files, with the requests of the traced window beside them; the dataset reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from servegauge.contract import metrics
from servegauge.contract.records.base import write
from servegauge.contract.records.cell import Measured
from servegauge.contract.records.outcome import CellOutcome
from servegauge.contract.records.trace import TraceRecord
from servegauge.contract.spec import Cell
from servegauge.launch import cell as cell_run
from servegauge.launch.live import LiveLaunch

RECORD = "trace.json"


def measure(run: LiveLaunch, cell: Cell, thresholds: Mapping[str, float], title: str) -> CellOutcome:
    """Trace `cell`, whose launch says how; its outcome, as `cell.measure` gives it. results/traces/ gets the trace."""
    return cell_run.measure(run, cell, thresholds, title, Trace, "traces")


class Trace(cell_run.Measurement):
    """One trace being taken. Without its profiler's files it has failed, however well the load went."""

    tpot_p50_s: float | None = None

    def _end(self) -> bool:
        """Also where the profiler failed: there is nothing to wait for."""
        return super()._end() or bool(self.recording and self.recording.trouble)

    @property
    def _profiler(self) -> Mapping[str, Any]:
        """What the profiler says of itself."""
        asked = (self.run.launch.trace or {})["profiler"]
        reports = self.record.recorders
        found = [reports[name] for name, kind in cell_run.of_launch(self.run.launch).items() if kind.profiler == asked]
        return found[0] if found else {"error": f"there is no recorder for the profiler {asked!r}"}

    def _refuse(self, requests: pa.Table) -> None:
        if wrong := self._profiler.get("error") or self._profiler.get("unsupported"):
            raise cell_run.CellFailed(wrong)
        super()._refuse(requests)
        derived = metrics.derive(requests).filter(pc.equal(requests["phase"].cast(pa.string()), "window"))
        self.tpot_p50_s = pc.quantile(derived["tpot_s"], 0.5)[0].as_py()

    def _seal(self, folder: Path, status: str, reason: str | None) -> None:
        """Write `trace.json` last, with the hash of every file that it vouches for."""
        captures = self._profiler.get("captures", []) if status == "ok" else []
        self._finish(folder, status, reason, captures)
        asked = dict(self.run.launch.trace or {})
        of_a_cell = {name: getattr(self.record, name) for name in Measured.__struct_fields__ if name != "version"}
        trace = TraceRecord(
            **of_a_cell,
            trace=self.cell.id,
            cell=asked["cell"],
            launch=self.record.launch,
            platform=self.run.platform["name"],
            condition=f"{self.cell.prompts['name']}, {self.load.words()}",
            profiler=asked["profiler"],
            asked=asked,
            tpot_p50_s=self.tpot_p50_s,
            captures=tuple(captures),
        )
        write(folder / RECORD, trace)
