"""A traced cell: its load once more, on a server under a profiler. Saved whole or not at all, away from the cells.

What is kept is the profiler's own files, with the requests of the traced window beside them; the dataset reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from servegauge.base.files import sha256, write_json
from servegauge.base.progress import utc_now
from servegauge.contract import metrics
from servegauge.contract.records.outcome import CellOutcome
from servegauge.contract.spec import Cell
from servegauge.launch import cell as cell_run
from servegauge.launch.live import LiveLaunch

RECORD = "trace.json"


def measure(run: LiveLaunch, cell: Cell, thresholds: Mapping[str, float], title: str) -> CellOutcome:
    """Trace `cell`, whose launch says how; its outcome, as `cell.measure` gives it. results/traces/ gets the trace."""
    return cell_run.measure(run, cell, thresholds, title, Trace, "traces")


class Trace(cell_run.Measurement):
    """One trace being taken. Without its profiler's files it has failed, however well the load went."""

    def _end(self) -> bool:
        """Also where the profiler failed: there is nothing to wait for."""
        return super()._end() or bool(self.recording and self.recording.trouble)

    @property
    def _profiler(self) -> Mapping[str, Any]:
        """What the profiler says of itself."""
        asked = (self.run.launch.trace or {})["profiler"]
        said = self.record.get("recorders") or {}
        found = [said[name] for name, kind in cell_run.of_launch(self.run.launch).items() if kind.profiler == asked]
        return found[0] if found else {"error": f"there is no recorder for the profiler {asked!r}"}

    def _refuse(self, requests: pa.Table) -> None:
        if wrong := self._profiler.get("error") or self._profiler.get("unsupported"):
            raise cell_run.CellFailed(wrong)
        super()._refuse(requests)
        derived = metrics.derive(requests).filter(pc.equal(requests["phase"].cast(pa.string()), "window"))
        self.record["tpot_p50_s"] = pc.quantile(derived["tpot_s"], 0.5)[0].as_py()

    def _seal(self, folder: Path, status: str, reason: str | None) -> None:
        """Write `trace.json` last, with the hash of every file that it vouches for."""
        captures = self._profiler.get("captures", []) if status == "ok" else []
        for scratch in folder.iterdir():
            if scratch.suffix != ".parquet" and scratch.name not in captures:
                scratch.unlink()
        files = {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in sorted(folder.iterdir())}
        trace = dict(self.run.launch.trace or {})
        self.record |= {
            "trace": self.record.pop("cell", self.cell.id),
            "cell": trace["cell"],
            "platform": self.run.platform["name"],
            "condition": f"{self.cell.prompts['name']}, {self.load.words()}",
            "profiler": trace["profiler"],
            "asked": trace,
            "captures": captures,
        }
        self.record |= {"status": status, "reason": reason, "finished_utc": utc_now(), "files": files}
        write_json(folder / RECORD, self.record)
