"""One cell on a live server: reset the cache, warm up, load, judge, save. A cell is saved whole or not at all."""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import sha256, whole_folder
from servegauge.base.progress import utc_now
from servegauge.contract.capacity import search_seconds
from servegauge.contract.flags import cell_flags
from servegauge.contract.metrics import summarise
from servegauge.contract.records import base as records
from servegauge.contract.records.cell import CellRecord, FileHash, Flag
from servegauge.contract.records.outcome import CellOutcome
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.records.workload import WorkloadRecord
from servegauge.contract.spec import Cell, Load
from servegauge.frameworks.base import Reset
from servegauge.inputs import models
from servegauge.instrument import carried
from servegauge.instrument.coordinator import LoadResult, run_load
from servegauge.instrument.job import LoadJob
from servegauge.launch.live import LiveLaunch
from servegauge.launch.recorder import Recording
from servegauge.launch.recorders import of_launch, scrape
from servegauge.workloads import tokenizer


class CellFailed(Exception):
    """Why a cell counts as failed; the text is its reason."""


class CellNotRun(Exception):
    """The job is to end before this cell could be measured; it is left for the next attempt."""


def expected_s(load: Load, closed_s: float) -> float:
    """About how long a cell takes, in seconds: exact for open loops but for ramp and tail, else `closed_s`."""
    if load.capacity is not None:
        return search_seconds(load.requests or 0, load.capacity["first_rps"])
    if load.rate_rps is None:
        return closed_s
    by_requests = load.requests / load.rate_rps if load.requests is not None else math.inf
    window = min(by_requests, load.duration_s if load.duration_s is not None else math.inf)
    passes = 2 if load.cache == "warm" else 1
    ramp = max(load.ramp_s or 0.0, min(2.0, window / 3))
    return passes * window + load.warmup_requests / load.rate_rps + ramp + 3.0


def measure(
    run: LiveLaunch,
    cell: Cell,
    thresholds: Mapping[str, float],
    title: str,
    how: Callable[[LiveLaunch, Cell, Mapping[str, float], str], Measurement] | None = None,
    kind: str = "cells",
) -> CellOutcome:
    """Measure `cell`; returns its outcome and never raises for what the load did.

    `how` measures it (without: a `Measurement`), and the folder `kind` of the results gets what comes of it.
    """
    target = run.results / kind / cell.id
    writer = f"attempt-{run.attempt}"
    # Of this attempt, killed while it measured this cell; another attempt's folder may be one in the making.
    for left_over in target.parent.glob(f".{cell.id}.{writer}.*"):
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        measurement = (how or Measurement)(run, cell, thresholds, title)
        with whole_folder(target, writer) as folder:
            try:
                record = measurement.into(folder)
            except CellFailed as error:
                measurement.keep_failed(folder, run.without_secrets(str(error)))
                raise
    except CellNotRun as error:
        return CellOutcome(status="not_run", reason=str(error))
    except CellFailed as error:
        return CellOutcome(status="failed", reason=run.without_secrets(str(error)))
    except OSError as error:
        # shutil collects what it could not copy in a list of (from, to, why).
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        return CellOutcome(status="failed", reason=f"the cell could not be saved: {why}")
    except Exception as error:
        # A mistake of ours in one cell must not take the others with it. The job's log has it.
        print(run.without_secrets(traceback.format_exc()), file=sys.stderr, flush=True)
        reason = f"a defect of the pipeline: {type(error).__name__}: {error}; the traceback is in the job's log"
        return CellOutcome(status="failed", reason=run.without_secrets(reason))
    return CellOutcome(status="ok", flags=tuple(flag.flag for flag in record.flags))


class Measurement:
    """One cell being measured."""

    def __init__(self, run: LiveLaunch, cell: Cell, thresholds: Mapping[str, float], title: str) -> None:
        self.run, self.cell, self.load, self.title = run, cell, cell.load, title
        self.judged = cell  # under the load that flags look at
        self.thresholds = thresholds
        self.framework = run.framework
        self.reset: Reset | None = None
        self.recording: Recording | None = None
        if cell.protocol != (now := cell.load.protocol):
            raise CellFailed(
                f"it is of measuring protocol {cell.protocol}, this version measures by {now}; run the study again"
            )
        workload = run.results / "workloads" / cell.workload.id
        self.workload_file = workload / "workload.parquet"
        try:
            self.workload = records.read(workload / "workload.json", WorkloadRecord)
        except records.DamagedRecord as error:
            raise CellFailed(str(error)) from error
        except OSError as error:
            raise CellFailed(
                f"its workload {workload} cannot be read: {error}. Remove it and compile it again."
            ) from error
        self.workload_sha256: str | None = self.workload.sha256
        self.window_s = self.workload.window_s
        self.expected_e2e_s: float | None = None  # where no warm-up comes before the load
        self.record = CellRecord(
            cell=cell.id,
            launch=cell.launch,
            attempt=run.attempt,
            study=run.study,
            protocol=cell.protocol,
            workload=cell.workload.id,
            workload_sha256=self.workload.sha256,
            spec=CellSpec.of(cell, thresholds=dict(thresholds)),
            started_utc=utc_now(),
            files={},
        )

    def _note(self, **fields: Any) -> None:
        """Add to the record what is known now."""
        self.record = msgspec.structs.replace(self.record, **fields)

    def into(self, folder: Path) -> CellRecord:
        """Fill `folder` with everything of this cell; CellFailed or CellNotRun otherwise."""
        self._reset_cache()
        if self.load.cache == "warm":
            self._warm_cache()
        before = self._metrics()
        recording = self.recording = Recording(of_launch(self.run.launch), self.run, folder)
        try:
            result = self._measured_load(folder)
        except BaseException:
            recording.cancel()
            raise
        zero_ns = result.clock.window_start_ns
        if zero_ns is None:
            recording.cancel()
        else:
            recording.stop(zero_ns)
        after = self._metrics()
        requests = pq.read_table(result.requests)
        nearest = carried.nearest(
            self.run.calibration,
            self.load,
            summarise(requests, result.window.duration_s, self.load.loop)["output_tokens_per_s"],
            self.workload.prompt_tokens.mean,
        )
        self._note(
            clock=result.clock,
            window=result.window,
            cache_reset=asdict(self.reset) if self.reset else None,
            instrument={**result.instrument, "calibration": records.plain(nearest)},
            recorders=recording.report,
            node=recording.report.get("sampler", {}).get("node"),
            metrics_before=before,
            metrics_after=after,
        )
        self._refuse(requests)
        self._note(prompt_opening_tokens=self._opening_tokens())
        gpu = folder / "gpu.parquet"
        samples = pq.read_table(gpu) if gpu.exists() else None
        self._note(flags=msgspec.convert(self._flags(requests, samples), tuple[Flag, ...]))
        self._seal(folder, "ok", None)
        return self.record

    # -- before -------------------------------------------------------------

    def _reset_cache(self) -> None:
        """Reset every instance's prefix cache; a refusal, whenever it comes, is what the cell keeps."""
        began = time.monotonic()
        resets = [self.framework.reset_cache(one.client, self.run.launch) for one in self.run.servers]
        self._note(reset_s=(self.record.reset_s or 0.0) + time.monotonic() - began)
        if self.reset is None or self.reset.ok:
            self.reset = next((reset for reset in resets if not reset.ok), resets[0])

    def _warm_cache(self) -> None:
        """`cache: warm` sends the window's own prompts once before the window, and throws the answers away."""
        with tempfile.TemporaryDirectory(dir=self.run.work) as folder:
            self._run_load(Path(folder), "window", plain=True)

    def _metrics(self) -> dict[str, float] | None:
        """The servers' counters now, by common name, of all instances together; None where there are none."""
        if not self.framework.metrics_path:
            return None
        values: dict[str, list[float]] = {}
        for one in self.run.servers:
            reply = one.client.get(self.framework.metrics_path)
            if not reply.ok:
                return None
            try:
                page = scrape.snapshot(reply.text, self.framework.metrics)
            except ValueError as error:  # it costs the metrics, and nothing else
                self._note(metrics_unreadable=self.run.without_secrets(str(error)))
                return None
            for name, value in page.items():
                values.setdefault(name, []).append(value)
        return {name: scrape.combined(name, got) for name, got in values.items()}

    # -- the load -----------------------------------------------------------

    def _measured_load(self, folder: Path) -> LoadResult:
        """Put the load on; what is left in `folder` is what the cell keeps."""
        return self._run_load(folder, "both" if self.load.warmup_requests else "window")

    def _run_load(self, folder: Path, phase: str, plain: bool = False) -> LoadResult:
        load, run = self.load, self.run
        job = LoadJob(
            base_urls=[one.base_url for one in run.servers],
            workload=str(self.workload_file),
            workload_sha256=self.workload_sha256,
            out=str(folder),
            model=run.servers[0].context.model_path if self.framework.model_is_path else run.launch.model["name"],
            load=load,
            phase=phase,
            window_s=self.window_s,
            expected_e2e_s=self.expected_e2e_s,
            plain=plain,
            extra_body={
                **self.framework.request_extras(run.launch),
                **(self.framework.ignore_eos if load.ignore_eos else {}),
                **(load.sampling or {}),
            },
            adapter_field=(self.framework.adapter_field or "model") if run.launch.options.get("lora") else "",
            api_key=run.api_key,
            cpus=list(run.launch.placement.load_cpus) or None,
            workers=carried.workers_needed(run.calibration, load),
            tokenizer=str(models.workload_tokenizer(self.cell.workload.tokenizer, run.root).parent),
            cell=self.cell.id,
            launch=run.launch.id,
        )
        # The warm-up may have left something in the cache that the window shares, such as a common prefix.
        between = self._reset_cache if load.cache == "cold" else None
        begins = None if plain or self.recording is None else self.recording.window_begins
        try:
            result = run_load(job, self._progress, should_stop=self._end, between=between, on_window=begins)
        except UserError as error:
            self._refuse_dead()  # why a server died is worth more than that nothing can connect to it
            raise CellFailed(str(error)) from error
        if result.stopped and run.stop.reason:
            raise CellNotRun(f"interrupted: {run.stop.reason}")
        return result

    def _progress(self, done: int, total: int, in_flight: int) -> None:
        if total:  # nothing is known while the connections are being opened
            self.run.progress.count(f"{self.title}: {done}/{total} requests, {in_flight} in flight")

    def _end(self) -> bool:
        """True when going on is pointless: the job is to stop, or a server is gone."""
        return self.run.stop() or not self.run.instances.alive()

    # -- after --------------------------------------------------------------

    def _opening_tokens(self) -> int | None:
        """Tokens that every prompt begins with, which a prefix cache holds from the first request on; None if off."""
        if not self.run.launch.options.get("prefix_cache"):
            return None
        file = models.workload_tokenizer(self.cell.workload.tokenizer, self.run.root)
        own = tokenizer.load(file)
        try:
            return own.opening(chat=self.load.endpoint == "chat")
        except UserError:  # no chat template that we can read: the server has one of its own
            return own.opening(chat=False)

    def _flags(self, requests: pa.Table, samples: pa.Table | None) -> list[dict[str, Any]]:
        """What casts doubt on the cell. `samples`: of its GPUs, if there are any."""
        return cell_flags(requests, self.judged, records.plain(self.record), self.thresholds, samples)

    def _refuse_dead(self) -> None:
        """CellFailed where a server died."""
        for number, one in enumerate(self.run.servers):
            if not one.alive():
                which = f"server {number}" if len(self.run.servers) > 1 else "the server"
                raise CellFailed(f"{which} died during the cell: {one.how_it_ended()}{one.why()}")

    def _refuse(self, requests: Any) -> None:
        """CellFailed where nothing was measured: a server died, or no request of the window was answered."""
        self._refuse_dead()
        window = requests.filter(pc.equal(requests["phase"].cast(pa.string()), "window"))
        statuses = window["status"].to_pylist()
        if "ok" not in statuses:
            errors = [error for error in window["error"].to_pylist() if error]
            first = f"; the first: {errors[0]}" if errors else ""
            counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
            raise CellFailed(f"none of {len(statuses)} requests was answered ({counts}){first}")

    def _seal(self, folder: Path, status: str, reason: str | None) -> None:
        """Write `cell.json` last, with the hash of every file that it vouches for."""
        self._finish(folder, status, reason)
        records.write(folder / "cell.json", self.record)

    def _finish(self, folder: Path, status: str, reason: str | None, captures: Collection[str] = ()) -> None:
        """Leave the tables and `captures` in `folder` alone, and note their hashes."""
        for scratch in folder.iterdir():
            if scratch.suffix != ".parquet" and scratch.name not in captures:
                scratch.unlink()
        files = {
            path.name: FileHash(sha256=sha256(path), bytes=path.stat().st_size) for path in sorted(folder.iterdir())
        }
        self._note(status=status, reason=reason, finished_utc=utc_now(), files=files)

    def keep_failed(self, folder: Path, reason: str) -> None:
        """Keep what there is of a failed cell with its attempt: its reason, and the requests that did come back."""
        target = self.run.folder / "failed" / self.cell.id
        self._seal(folder, "failed", reason)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder, target)
