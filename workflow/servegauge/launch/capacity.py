"""A cell that searches the capacity: many loads on one live server, one rate after the other, saved as one cell.

`instrument/capacity.py` says which rates are tried and what a rate must do to attain. Each is a load like any other:
ramp, window and tail, after the server is idle and its cache reset. The cell's own requests are those of the highest
rate that attained; `capacity_steps.parquet` has a row per rate, `step_requests.parquet` the requests of all.
Interrupted, or with a server that died, there is no cell.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.progress import utc_now
from servegauge.contract import metrics, tables
from servegauge.contract.capacity import PRECISION
from servegauge.contract.flag_registry.generator_limited import GENERATOR_LIMITED
from servegauge.contract.flag_registry.saturated import SATURATED
from servegauge.contract.flags import cell_flags
from servegauge.contract.records import base as records
from servegauge.contract.records.cell import Capacity
from servegauge.contract.spec import Cell
from servegauge.instrument import carried
from servegauge.instrument.capacity import Bracket, first_rate, lower_bound, search
from servegauge.instrument.coordinator import LoadResult
from servegauge.launch.cell import CellFailed, Measurement
from servegauge.workloads.at_rate import at_rate
from servegauge.workloads.compile import read_workload, write_parquet

IDLE_S = 10.0  # to wait for a server to be idle before the next rate, where its metrics tell
STEPS, REQUESTS = "capacity_steps.parquet", "step_requests.parquet"


@dataclass(frozen=True)
class Step:
    """One rate that was tried: its row of CAPACITY_STEPS, what it left, and the flags of its load."""

    row: dict[str, Any]
    result: LoadResult
    cell: Cell  # under this rate
    flags: list[dict[str, Any]]


class CapacitySearch(Measurement):
    """One search being measured."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked = self.load.capacity or {}
        self.steps: list[Step] = []
        self.bracket: Bracket

    def _measured_load(self, folder: Path) -> LoadResult:
        workload, gaps = read_workload(self.workload_file), self.workload.window_s
        if gaps is None:
            raise CellFailed(f"its workload {self.workload_file.parent} has no times; remove it and compile it again")
        if "session" in workload.column_names:
            raise CellFailed("a search for the capacity sends single requests, and this prompt set is one of sessions")
        with tempfile.TemporaryDirectory(dir=self.run.work) as scratch:
            first = first_rate(self.asked["first_rps"], self.cell.id)
            self.bracket = search(lambda rate: self._try(rate, workload, gaps, Path(scratch)), first, self._most)
            low = self.bracket.low_rps
            kept = next((one for one in self.steps if one.row["rate_rps"] == low), None)
            kept = kept or min(self.steps, key=lambda one: one.row["rate_rps"])
            shutil.copyfile(kept.result.requests, folder / "requests.parquet")
            self._keep_steps(folder)
        self.judged, self.load = kept.cell, kept.cell.load
        found = {"low_rps": low, "high_rps": self.bracket.high_rps, "step": kept.row["step"], "precision": PRECISION}
        self._note(capacity=Capacity(**{name: self.asked[name] for name in ("slo", "limits", "share")}, **found))
        return replace(kept.result, requests=folder / "requests.parquet")

    @property
    def _most(self) -> float:
        return float(self.asked["most_rps"])

    def _try(self, rate: float, workload: pa.Table, gaps: float, scratch: Path) -> bool:
        """Put this rate on and judge it. CellFailed or CellNotRun where it could not be measured."""
        number = len(self.steps)
        if number:
            self._wait_until_idle()
            if self.cell.load.cache == "cold":
                self._reset_cache()
        folder = scratch / f"step-{number}"
        folder.mkdir()
        self.workload_file, self.workload_sha256 = folder / "workload.parquet", None
        write_parquet(at_rate(workload, gaps, rate, self.workload.output_tokens.mean), self.workload_file)
        self.load = replace(self.cell.load, rate_rps=rate, capacity=None)
        self.window_s = gaps / rate
        started = utc_now()
        self.run.progress.say(f"{self.title}: rate {number + 1}, {rate:.4g} requests/s")
        result = self._run_load(folder, "both" if self.load.warmup_requests and not number else "window")
        self._refuse_dead()
        if result.stopped or result.window.duration_s is None:
            raise CellFailed(f"the load at {rate:.4g} requests/s ended before its window was over")
        step = self._judged_step(number, rate, started, result)
        self.steps.append(step)
        if not number:
            self.expected_e2e_s = _longest_warmup_s(pq.read_table(result.requests))
        return bool(step.row["attained"])

    def _judged_step(self, number: int, rate: float, started: str, result: LoadResult) -> Step:
        requests = pq.read_table(result.requests)
        cell = replace(self.cell, load=self.load)
        summary = metrics.summarise(requests, result.window.duration_s, "open")
        reached = metrics.goodput(requests, self.asked["limits"], result.window.duration_s, "open")
        load = (self.load, summary["output_tokens_per_s"], self.workload.prompt_tokens.mean)
        record = {
            **records.plain(self.record),
            "window": records.plain(result.window),
            "instrument": {
                **result.instrument,
                "calibration": records.plain(carried.nearest(self.run.calibration, *load)),
            },
        }
        flags = cell_flags(requests, cell, record, self.thresholds)
        low = lower_bound(reached["requests_attained"], summary["requests"])
        saturated = any(flag["flag"] == SATURATED.name for flag in flags)
        row = {
            **{name: summary[name] for name in tables.CAPACITY_STEPS.names if name in summary},
            **{name: reached[name] for name in ("requests_attained", "attained_share", "goodput_rps")},
            "step": number,
            "slo": self.asked["slo"],
            "rate_rps": rate,
            "attained_low": low,
            "saturated": saturated,
            "attained": low >= self.asked["share"] and not saturated,
            "ramp_s": result.window.ramp_s,
            "started_utc": started,
            "flags": [flag["flag"] for flag in flags],
        }
        return Step(row, result, cell, flags)

    def _wait_until_idle(self) -> None:
        """Until the servers have nothing to do, where they tell: what was given up may still be in their queues."""
        deadline = time.monotonic() + IDLE_S
        while time.monotonic() < deadline and not self._end():
            page = self._metrics() or {}
            if not any(page.get(name) for name in ("requests_running", "requests_waiting")):
                return
            time.sleep(0.2)

    def _keep_steps(self, folder: Path) -> None:
        rows = [{**one.row, "cell": self.cell.id, "launch": self.cell.launch} for one in self.steps]
        pq.write_table(tables.from_rows(rows, tables.CAPACITY_STEPS), folder / STEPS)
        raw = []
        for one in self.steps:
            table = pq.read_table(one.result.requests)
            raw.append(table.append_column("step", pa.repeat(pa.scalar(one.row["step"], pa.int16()), table.num_rows)))
        pq.write_table(pa.concat_tables(raw), folder / REQUESTS, compression="zstd")

    def _flags(self, requests: pa.Table, samples: pa.Table | None) -> list[dict[str, Any]]:
        """Those of the rate that attained, and where the generator may be why the next one did not."""
        flags = super()._flags(requests, samples)
        missed = next((one for one in self.steps if one.row["rate_rps"] == self.bracket.high_rps), None)
        if missed is not None and all(flag["flag"] != GENERATOR_LIMITED.name for flag in flags):
            flags += [flag for flag in missed.flags if flag["flag"] == GENERATOR_LIMITED.name]
        return flags


def _longest_warmup_s(requests: pa.Table) -> float | None:
    """End-to-end time of the slowest answered request of the warm-up, seconds; None without any."""
    warm = requests.filter(pc.equal(requests["phase"].cast(pa.string()), "warmup"))
    ns = pc.max(pc.subtract(warm["end_ns"], warm["sent_ns"])).as_py() if warm.num_rows else None
    return None if ns is None else ns / 1e9
