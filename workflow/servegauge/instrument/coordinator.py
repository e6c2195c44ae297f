"""The instrument: sends a frozen workload to OpenAI-compatible servers and stamps every read.

`run_load(job)` starts the generator's own process or processes, lets them prepare (bytes built, connections open and
warm), starts them at one moment of the clock that they share, and joins what they measured into one table with the
schema REQUESTS_RAW. `python -m servegauge.instrument.coordinator JOB.json` does the same from a file.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from servegauge.base import forkserver
from servegauge.base.errors import UserError, run_and_exit
from servegauge.base.files import sha256, whole_file
from servegauge.base.forkserver import ForkedProcess
from servegauge.contract.records.cell import Clock, Window
from servegauge.instrument.job import LoadJob
from servegauge.instrument.token_counts import Encoder

# What the fork server imports, so that a generator process need not.
PRELOADED = (
    "servegauge.instrument.worker",
    "servegauge.instrument.request_rows",
    "uvloop",
    "numpy",
    "pandas",  # pyarrow imports it with the first table that it makes, which takes longer than all the others
)
_LEAD_S = 0.05  # from the order to start until the start, so that every worker has it in time
_PREPARE_S = 600.0  # building bytes and opening connections; a worker that takes longer hangs
_POLL_S = 0.2


@dataclass(frozen=True)
class LoadResult:
    """What a run left.

    `counts` is status -> requests of the window. Of bursts, the length of the window is the sum of theirs, each until
    its last token. Clock and window hold None where no window ran.
    """

    requests: Path
    counts: dict[str, int]
    window: Window
    clock: Clock
    instrument: dict[str, Any]
    stopped: bool


class _Process:
    """One generator process and the lines that it writes."""

    def __init__(self, job_file: Path, worker: int, secrets: dict[str, Any]) -> None:
        self.worker = worker
        self.log = job_file.parent / f"worker-{worker}.log"
        self.process = ForkedProcess("servegauge.instrument.worker", str(job_file), str(worker), log=self.log)
        self.buffer = b""
        self.progress = {"done": 0, "total": 0, "in_flight": 0}
        self.events: dict[str, dict[str, Any]] = {}
        self.ended = False
        self.process.tell(secrets)

    def read(self) -> None:
        """Take in what it wrote."""
        data = os.read(self.process.stdout.fileno(), 1 << 16)
        if not data:
            self.ended = True
            return
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            name = event.pop("event")
            if name == "progress":
                self.progress = event
            else:
                self.events[event["phase"] if name == "phase" else name] = event

    def check(self) -> None:
        """UserError where it has failed."""
        if "error" in self.events:
            raise UserError(self.events["error"]["message"])
        if self.ended and "done" not in self.events:
            tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
            code = self.process.wait()
            words = "\n".join(tail) or "it wrote nothing"
            raise UserError(f"load generator process {self.worker} ended with status {code}:\n{words}")


class _Team:
    """The generator processes of one run."""

    def __init__(
        self,
        job: LoadJob,
        folder: Path,
        on_progress: Callable[[int, int, int], None] | None,
        should_stop: Callable[[], bool],
    ) -> None:
        job_file = folder / "job.json"
        job_file.write_text(job.to_json(), encoding="utf-8")
        self.on_progress = on_progress
        self.should_stop = should_stop
        self.stopping = False
        forkserver.prepare(PRELOADED)
        self.members = [_Process(job_file, worker, job.secrets) for worker in range(job.workers)]
        self.selector = selectors.DefaultSelector()
        for member in self.members:
            self.selector.register(member.process.stdout, selectors.EVENT_READ, member)

    def wait(self, event: str, timeout_s: float | None = None) -> None:
        """Wait until every process has sent `event`, or until all are done."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not all(event in member.events or "done" in member.events for member in self.members):
            if deadline is not None and time.monotonic() > deadline:
                raise UserError(f"the load generator did not say {event!r} within {timeout_s:g} s; see {self.logs()}")
            try:
                self._turn()
            except KeyboardInterrupt:
                self.stop()

    def _turn(self) -> None:
        for key, _ in self.selector.select(_POLL_S):
            key.data.read()
            if key.data.ended:
                self.selector.unregister(key.fileobj)
        for member in self.members:
            member.check()
        if not self.stopping and self.should_stop():
            self.stop()
        if self.on_progress is not None:
            each = [member.progress for member in self.members]
            self.on_progress(*(sum(progress[key] for progress in each) for key in ("done", "total", "in_flight")))

    def tell(self, order: dict[str, Any]) -> None:
        for member in self.members:
            member.process.tell(order)

    def stop(self) -> None:
        """Ask for an early end; what was measured is kept."""
        self.stopping = True
        self.tell({"stop": True})

    def logs(self) -> str:
        return ", ".join(str(member.log) for member in self.members)

    def close(self) -> None:
        """Leave no process behind."""
        for member in self.members:
            member.process.close()
            member.process.wait(5)
            member.process.kill()
        self.selector.close()


def run_load(
    job: LoadJob,
    on_progress: Callable[[int, int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    between: Callable[[], None] | None = None,
    on_window: Callable[[], None] | None = None,
) -> LoadResult:
    """Run `job`; writes `<job.out>/requests.parquet`. UserError where it cannot run.

    `on_progress(done, total, in_flight)` is called a few times a second. `between` is called between the warm-up and
    the window of a job with both (to reset a cache), with nothing in flight. `on_window` is called as the window (the
    first of several bursts) opens, with the ramp's requests in flight, and must return at once. When `should_stop` says
    so, or on Ctrl-C, sending ends, what is in flight is recorded as cancelled, and what was measured is kept: `stopped`
    tells.
    """
    workload = Path(job.workload)
    if not workload.is_file():
        raise UserError(f"no workload at {workload}; compile it first (scripts/compile_workloads.py)")
    if job.workload_sha256 is not None and (found := sha256(workload)) != job.workload_sha256:
        raise UserError(f"{workload} has SHA-256 {found}, but {job.workload_sha256} is asked for; compile it again")
    if job.tokenizer is not None:
        Encoder(job.tokenizer)  # its absence is an error now, not after the window
    streams = job.load.concurrency
    if streams is not None and job.workers > streams:
        job = replace(job, workers=streams)  # a process without a stream would send nothing
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out, prefix=".loadgen."))
    try:
        team = _Team(job, folder, on_progress, should_stop)
        try:
            team.wait("ready", _PREPARE_S)
            window = _Bounds()
            for number, phase in enumerate(_turns(job)):
                if team.stopping:
                    break
                if number and between is not None:
                    between()
                start_ns = time.monotonic_ns() + int(_LEAD_S * 1e9)
                team.tell({"phase": phase, "start_ns": start_ns})
                if phase == "burst-0" and on_window is not None:
                    on_window()
                if phase == "window":
                    _hold(job, team, window, start_ns, on_window)
                team.wait(phase)
                if phase == "window":
                    _settle(job, team, window)
            team.wait("done")
        finally:
            team.close()
        return _joined(job, team, out / "requests.parquet", window)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Bounds:
    """The window of a run and what was around it, ns of CLOCK_MONOTONIC; None where it did not come to that."""

    ramp_ns: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    over_ns: int | None = None  # every request of the window had ended
    exhausted_ns: int | None = None


def _turns(job: LoadJob) -> list[str]:
    """What the workers are ordered to run, in order."""
    bursts = [f"burst-{number}" for number in range(job.load.bursts)] if job.load.loop == "burst" else ["window"]
    return [*(["warmup"] if "warmup" in job.phases else []), *(bursts if "window" in job.phases else [])]


def _hold(job: LoadJob, team: _Team, window: _Bounds, start_ns: int, on_window: Callable[[], None] | None) -> None:
    """Keep the load on through ramp, window and tail; every worker does the same at the same time."""
    team.wait("steady")
    window.ramp_ns = start_ns
    team.tell({"open_ns": time.monotonic_ns() + int(_LEAD_S * 1e9)})
    if on_window is not None:
        on_window()
    if job.load.loop == "closed":
        team.wait("sent")
        team.tell({"close_ns": time.monotonic_ns()})
    team.wait("drained")
    window.over_ns = time.monotonic_ns()
    team.tell({"finish": True})


def _settle(job: LoadJob, team: _Team, window: _Bounds) -> None:
    """Say what the window was, once everything has been sent.

    A closed loop's begins with its first request and ends where the request after its last one was sent: it then holds
    as many answers as requests. Where nothing was sent after the last one, it ends with the last one's.
    """
    events = [member.events["window"] for member in team.members if "window" in member.events]
    opened = [event["opened_ns"] for event in events if event.get("opened_ns")]
    if team.stopping or len(opened) < len(team.members):
        return
    window.start_ns = min(opened)
    window.exhausted_ns = min((event["exhausted_ns"] for event in events if event["exhausted_ns"]), default=None)
    if job.load.loop == "closed":
        sends = sorted(when for event in events for when in event["sends"] if when >= window.start_ns)
        count = sum(event["quota"] for event in events)
        window.start_ns = sends[0] if sends else window.start_ns
        window.end_ns = sends[count] if len(sends) > count else max(event["landed_ns"] for event in events)
        if job.load.duration_s is not None:
            window.end_ns = min(window.end_ns, min(opened) + int(job.load.duration_s * 1e9))
    else:
        window.end_ns = events[0]["closed_ns"]
        if window.end_ns <= window.start_ns + 1:  # everything at once, and nothing says how long that is to last
            window.end_ns = max(event["landed_ns"] for event in events)
    team.tell({"window_ns": [window.start_ns, window.end_ns]})


def _joined(job: LoadJob, team: _Team, path: Path, window: _Bounds) -> LoadResult:
    """One table and one account of the run from its workers'."""
    from servegauge.instrument import request_rows  # pyarrow is not needed until here

    finished = [member.events["done"] for member in team.members]
    with whole_file(path) as temporary:
        table = request_rows.join_parts([Path(event["part"]) for event in finished], temporary)
    accounts = [event["instrument"].get("window") or event["instrument"].get("warmup") or {} for event in finished]
    columns = table.select(["phase", "status", "sent_ns", "scheduled_ns", "last_ns"]).to_pydict()
    rows = [row[1:] for row in zip(*columns.values(), strict=True) if row[0] == "window"]
    lateness = _lateness_s([(sent, scheduled) for _, sent, scheduled, _ in rows])
    windows = [event["instrument"]["window"] for event in finished if "window" in event["instrument"]]

    def total(key: str) -> int:
        return sum(account.get(key, 0) for account in accounts)

    def worst(key: str) -> float | None:
        return max((account[key] for account in accounts if account.get(key) is not None), default=None)

    instrument: dict[str, Any] = {
        "workers": job.workers,
        "cpus": [account.get("cpus") for account in accounts],
        "cpu_s": sum(account.get("cpu_s", 0.0) for account in accounts),
        "busiest_cpu_share": max((_share(account) for account in accounts), default=0.0),
        "buffer_high_water": max((account.get("buffer_high_water", 0) for account in accounts), default=0),
        "understood_in_window": total("understood_in_window"),
        "connections_opened_in_window": total("connections_opened_in_window"),
        "partial_writes": total("partial_writes"),
        "involuntary_switches": total("involuntary_switches"),
        "wakeup_p99_s": worst("wakeup_p99_s"),
        "wakeup_max_s": worst("wakeup_max_s"),
        **lateness,
    }
    counts: dict[str, int] = {}
    for status, *_ in rows:
        counts[status] = counts.get(status, 0) + 1
    started = next((event["start_ns"]["window"] for event in finished if "window" in event["start_ns"]), None)
    start_ns = window.start_ns or started
    first = windows[0] if windows else {}
    clock = Clock(
        window_start_ns=start_ns,
        epoch_offset_start_ns=first.get("epoch_offset_start_ns"),
        epoch_offset_end_ns=first.get("epoch_offset_end_ns"),
    )
    if job.load.loop == "burst":
        window_s = _bursts_s([(scheduled, last) for _, _, scheduled, last in rows])
    elif start_ns is not None and window.end_ns is not None:
        window_s = (window.end_ns - start_ns) / 1e9
    else:  # stopped early: until the last answer
        window_s = max((last for *_, last in rows if last is not None), default=0) / 1e9 or None
    stopped = any(event["stopped"] for event in finished)
    return LoadResult(path, counts, _described(window, window_s), clock, instrument, stopped)


def _described(bounds: _Bounds, duration_s: float | None) -> Window:
    """The window of this length, with the lengths of ramp and tail, and when the load ran out."""
    start, end = bounds.start_ns, bounds.end_ns
    if start is None or end is None:
        return Window(duration_s=duration_s)
    return Window(
        duration_s=duration_s,
        ramp_s=None if bounds.ramp_ns is None else (start - bounds.ramp_ns) / 1e9,
        tail_s=None if bounds.over_ns is None else max(0.0, (bounds.over_ns - end) / 1e9),
        exhausted_ns=None if bounds.exhausted_ns is None else bounds.exhausted_ns - start,
    )


def _bursts_s(rows: list[tuple[int, int | None]]) -> float | None:
    """Seconds of all bursts together, each from its start to its last token, from (scheduled, last) ns."""
    ends: dict[int, int] = {}
    for scheduled, last in rows:
        if last is not None:
            ends[scheduled] = max(ends.get(scheduled, 0), last)
    return sum(last - scheduled for scheduled, last in ends.items()) / 1e9 or None


def _share(account: dict[str, Any]) -> float:
    """CPU time of a worker over its window, 0 to 1."""
    return account["cpu_s"] / account["duration_s"] if account.get("duration_s") else 0.0


def _lateness_s(pairs: list[tuple[int | None, int]]) -> dict[str, float | None]:
    """Quantiles of sent - scheduled, in seconds; None where nothing was sent."""
    import numpy as np

    lateness = [(sent - scheduled) / 1e9 for sent, scheduled in pairs if sent is not None]
    if not lateness:
        return {"lateness_p50_s": None, "lateness_p99_s": None, "lateness_max_s": None}
    p50, p99 = np.quantile(lateness, [0.5, 0.99])
    return {"lateness_p50_s": float(p50), "lateness_p99_s": float(p99), "lateness_max_s": max(lateness)}


def main() -> int:
    if len(sys.argv) != 2:
        raise UserError("usage: python -m servegauge.instrument.coordinator JOB.json (the fields of LoadJob)")
    job = LoadJob.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = run_load(job)
    print(json.dumps({"requests": str(result.requests), "counts": result.counts, "instrument": result.instrument}))
    return 130 if result.stopped else 0


if __name__ == "__main__":
    run_and_exit(main)
