"""One generator process: `python -m servegauge.instrument.worker JOB.json WORKER`, started by `coordinator.run_load`.

It exchanges lines of JSON with its coordinator: reads {"api_key"}, then {"phase", "start_ns"} or {"stop"} on standard
input (its end means stop, too), writes {"event": "ready" | "progress" | "phase" | "done" | "error", ...}. A load with a
window goes on in turns: "steady" (the ramp is over), {"open_ns"}, in a closed loop "sent" and {"close_ns"}, "drained"
(every request of the window has ended), {"finish"}, "phase", and {"window_ns"} at last, which all workers share. All
JSON of requests, Parquet and hashing happens before the first phase and after the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import os
import resource
import signal
import ssl
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.linux import hold_many_connections, run_soon
from servegauge.instrument.connection import InFlight
from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import Target
from servegauge.instrument.phases import FAR, Phase, build_phases, with_ramp
from servegauge.instrument.scheduler import Engine
from servegauge.instrument.share import Done, Share, understood

RETAINED_LIMIT = 1 << 30  # raw bytes kept for after the window; beyond, answers are understood as they land
TAIL_S = 5.0  # requests of the tail are waited for as long as the longest answer took, and at most so long
_PROGRESS_S = 0.5


def ended_in_s(job: LoadJob, share: Share, flights: Sequence[InFlight]) -> list[float]:
    """End-to-end times of the warm-up's requests that were answered; of sessions in an open loop, of the sessions."""
    good = [flight for flight in flights if flight.outcome is None]
    if not share.follows or job.load.loop != "open":
        return [(flight.end_ns - flight.sent_ns) / 1e9 for flight in good]
    spans: dict[int, tuple[int, int]] = {}
    for flight in good:
        session = share.columns["session"][flight.row]
        begin, end = spans.get(session, (flight.sent_ns, flight.end_ns))
        spans[session] = min(begin, flight.sent_ns), max(end, flight.end_ns)
    return [(end - begin) / 1e9 for begin, end in spans.values()]


def by_phase(flights: Sequence[InFlight], window_ns: Sequence[int]) -> dict[str, list[InFlight]]:
    """Flights of a load before, in and after its window: by when they were due (closed loop: a stream was free)."""
    parts: dict[str, list[InFlight]] = {"ramp": [], "window": [], "tail": []}
    for flight in flights:
        when = flight.scheduled_ns
        name = "ramp" if when < window_ns[0] else "window" if when < window_ns[1] else "tail"
        parts[name].append(flight)
    return parts


class Control:
    """The lines to and from the coordinator."""

    def __init__(self) -> None:
        self._buffer = b""

    def say(self, event: str, **content: Any) -> None:
        """Write one line, whole; a coordinator that is gone is no reason to lose what was measured."""
        with contextlib.suppress(BrokenPipeError):
            os.write(1, json.dumps({"event": event, **content}).encode() + b"\n")

    def lines(self, data: bytes) -> Iterator[dict[str, Any]]:
        *whole, self._buffer = (self._buffer + data).split(b"\n")
        for line in whole:
            yield json.loads(line)

    def first(self) -> dict[str, Any]:
        """Wait for the first line. EOFError where there is none."""
        while data := os.read(0, 65536):
            for line in self.lines(data):
                return line
        raise EOFError


def epoch_offset_ns() -> int:
    """Unix time minus monotonic time, in ns, from the tightest of a few pairs of readings."""
    readings = []
    for _ in range(9):
        before = time.monotonic_ns()
        now = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, now - (before + after) // 2))
    return min(readings)[1]


class Worker:
    """A generator process from its start to its part of the table."""

    def __init__(self, job: LoadJob, worker: int, control: Control) -> None:
        self.job, self.worker, self.control = job, worker, control
        self.retained = 0
        self.high_water = 0
        self.understood_in_window = 0
        self.landed = 0
        self.total = 0
        self.stopped = False
        self.engine: Engine
        self._orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._counted: set[int] = set()  # places of the rows that progress counts
        self._usage: list[tuple[float, int]] = []  # CPU time and clock at the start of the window, and when it is over

    async def run(self, api_key: str) -> Done:
        """Run all phases; what was done in them, for `request_rows.write_part`."""
        job = self.job
        share = Share.read(job, self.worker)
        targets = [Target.of(url) for url in job.base_urls]
        tls = tls_context(job) if any(target.tls for target in targets) else None
        self.engine = Engine(targets, tls, self.on_landed, self._on_event)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_reader(0, self._hear)
        phases = build_phases(job, share, self.worker, targets, api_key)
        for instance in range(len(targets)):
            count = max(self._wanted(phase, instance) for phase in phases.values())
            try:
                await self.engine.pool.open(instance, count, job.warm_path, api_key)
            except OSError as error:
                raise UserError(f"cannot connect to {job.base_urls[instance]}: {error}; is the server up?") from None
        self.control.say("ready", connections=len(self.engine.pool.all), requests=len(share.columns["request"]))
        done = Done(share)
        for name, phase in phases.items():
            order = await self._orders.get()
            if self.stopped:
                break
            if phase.held:
                e2e_s = ended_in_s(job, share, done.flights.get("warmup", ()))
                phase = with_ramp(phase, job, self.worker, e2e_s)
            await self._phase(name, phase, order["start_ns"], done)
        done.stopped = self.stopped
        loop.remove_reader(0)
        self.engine.close()
        return done

    async def _phase(self, name: str, phase: Phase, start_ns: int, done: Done) -> None:
        """Run one phase with the collector off."""
        self.high_water, self.understood_in_window = self.retained, 0
        window = [place for row in phase.rows for place in (row.place, *done.share.follows.get(row.place, ()))]
        self.landed, self.total, self._counted = 0, len(window), set(window)
        self._now, self._share = phase, done.share
        self._start_ns, self._usage = start_ns, [usage()]
        self.window_ns = [0, 0]
        gc.collect()
        gc.freeze()
        gc.disable()
        ticker = asyncio.get_running_loop().create_task(self._tick())
        switches, offset = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, epoch_offset_ns()
        flights = await self.engine.run(phase, start_ns)
        (cpu_before, before_ns), (cpu_after, after_ns) = self._usage[0], (*self._usage[1:], usage())[0]
        ticker.cancel()
        late_s = sorted(late / 1e9 for when, late in self.engine.wakeups if before_ns <= when <= after_ns)
        account = {
            "cpu_s": cpu_after - cpu_before,
            "duration_s": (after_ns - before_ns) / 1e9,
            "involuntary_switches": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
            "wakeup_p99_s": late_s[math.ceil(0.99 * len(late_s)) - 1] if late_s else None,
            "wakeup_max_s": late_s[-1] if late_s else None,
            "buffer_high_water": self.high_water,
            "understood_in_window": self.understood_in_window,
            "connections_opened_in_window": self.engine.pool.opened,
            "partial_writes": sum(flight.partial for flight in flights),
            "cpus": sorted(os.sched_getaffinity(0)),
            "epoch_offset_start_ns": offset,
            "epoch_offset_end_ns": epoch_offset_ns(),
        }
        key = "window" if name.startswith("burst") else name
        if phase.held:
            opened, closed = self.window_ns[0], phase.closed_loop
            sends = sorted(flight.scheduled_ns for flight in flights) if opened and closed else []
            self.control.say(
                "phase",
                phase=name,
                sends=sends,
                quota=phase.quota,
                opened_ns=opened,
                closed_ns=self.window_ns[1],
                landed_ns=max((flight.end_ns for flight in flights), default=0),
                exhausted_ns=self.engine.exhausted_ns,
            )
            await self._agree(opened)
            done.flights |= by_phase(flights, self.window_ns)
        else:
            done.flights.setdefault(key, []).extend(flights)
            self.control.say("phase", phase=name)
        done.start_ns.setdefault(key, self.window_ns[0] or start_ns)
        done.instrument[key] = account

    async def _agree(self, opened_ns: int) -> None:
        """Learn what the window was: from the coordinator, which asks every worker, unless it was stopped."""
        while not self.stopped:
            order = await self._orders.get()
            if "window_ns" in order:
                self.window_ns = order["window_ns"]
                return
        now = time.monotonic_ns()
        self.window_ns = [opened_ns or now, self.window_ns[1] or now]

    def _on_event(self, event: str) -> None:
        """What the engine has to say of a load with a window."""
        if event == "drained":
            self._usage.append(usage())
        self.control.say(event)

    def _open(self, earliest_ns: int) -> None:
        phase = self._now
        opening_ns = earliest_ns
        if not phase.closed_loop:
            opening_ns = self._start_ns + int(self._share.opening_s((earliest_ns - self._start_ns) / 1e9) * 1e9)
            self.window_ns[1] = opening_ns + phase.window_ns
        self.window_ns[0] = opening_ns
        self._usage = [usage()]
        self.engine.open_window(opening_ns)

    def _finish(self) -> None:
        """End the tail; what still hangs in it after a while is given up, as nothing of the window is."""
        self.engine.finish()
        longest_ns = max((one.end_ns - one.sent_ns for one in self.engine.done if one.outcome is None), default=0)
        wait_s = min(TAIL_S, longest_ns / 1e9)
        asyncio.get_running_loop().call_later(wait_s, self.engine.cancel, "given up after the window")

    def on_landed(self, flight: InFlight) -> None:
        """Count what is kept; beyond the bound, understand at once and let the bytes go."""
        self.landed += flight.row in self._counted
        self.retained += sum(map(len, flight.reads))
        if self.retained > self.high_water:
            self.high_water = self.retained
        if self.retained > RETAINED_LIMIT:
            self.retained -= sum(map(len, flight.reads))
            flight.answer = understood(flight)
            self.understood_in_window += 1
            first = flight.stamps[:1]
            flight.reads, flight.stamps = [], first

    def stop(self) -> None:
        """Stop sending and keep what was measured."""
        if not self.stopped:
            self.stopped = True
            self.engine.stop()
            self._orders.put_nowait({})

    def _hear(self) -> None:
        data = os.read(0, 65536)
        if not data:
            asyncio.get_running_loop().remove_reader(0)
            self.stop()
        for line in self.control.lines(data):
            if line.get("stop"):
                self.stop()
            elif "open_ns" in line:
                self._open(line["open_ns"])
            elif "close_ns" in line:
                self.window_ns[1] = line["close_ns"]
                self.engine.close_window(line["close_ns"])
            elif line.get("finish"):
                self._finish()
            else:
                self._orders.put_nowait(line)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            self.control.say("progress", done=self.landed, total=self.total, in_flight=len(self.engine.flying))

    def _wanted(self, phase: Phase, instance: int) -> int:
        """Connections to open before a phase: one a stream, or a reserve that an open loop keeps refilling."""
        if phase.closed_loop:
            return sum(owner == instance for owner in phase.stream_instances)
        rows = sum(row.instance == instance for part in (phase.ramp, phase.rows, phase.tail) for row in part)
        # A burst needs all of its connections at the same moment.
        return min(rows, phase.limit or FAR, rows if self.job.load.loop == "burst" else self.job.reserve)


def usage() -> tuple[float, int]:
    """CPU time of this process so far in seconds, and the clock in ns."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.monotonic_ns()


def tls_context(job: LoadJob) -> ssl.SSLContext:
    """TLS with the system's certificates, or those of `ca_file`; unverified only where the job says so."""
    context = ssl.create_default_context(cafile=job.ca_file)
    if not job.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def main() -> int:
    import uvloop

    folder, worker = Path(sys.argv[1]).parent, int(sys.argv[2])
    job = LoadJob.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    control = Control()
    if job.cpus:
        os.sched_setaffinity(0, {job.cpus[worker % len(job.cpus)]})
    run_soon()
    hold_many_connections()
    try:
        secrets = control.first()
        api_key, job = secrets.get("api_key", ""), replace(job, headers=secrets.get("headers", {}))
        done = uvloop.run(Worker(job, worker, control).run(api_key))
        from servegauge.instrument import request_rows

        part = request_rows.write_part(job, worker, done, folder / f"part-{worker}.parquet", api_key)
    except UserError as error:
        control.say("error", message=str(error))
        return 2
    control.say("done", part=str(part), instrument=done.instrument, start_ns=done.start_ns, stopped=done.stopped)
    return 0


if __name__ == "__main__":
    sys.exit(main())
