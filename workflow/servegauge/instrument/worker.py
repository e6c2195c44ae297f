"""One generator process: `python -m servegauge.instrument.worker JOB.json WORKER`, started by `loadgen.run_load`.

It speaks lines of JSON with its coordinator: reads {"api_key"}, then {"phase", "start_ns"} or {"stop"} on standard
input (its end means stop, too), writes {"event": "ready" | "progress" | "phase" | "done" | "error", ...}. All JSON,
Parquet and hashing happens before the first phase and after the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.linux import hold_many_connections, run_soon
from servegauge.instrument.connection import Flight
from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import PATHS, Target, body_of, request_bytes, request_id
from servegauge.instrument.scheduler import FAR, Engine, Phase, Row
from servegauge.instrument.share import Share, understood

RETAINED_LIMIT = 1 << 30  # raw bytes kept for after the window; beyond, answers are understood as they land
_PROGRESS_S = 0.5


def part_of(total: int, worker: int, workers: int) -> int:
    """How many of `total` streams (or slots) this worker has: they differ by one at most."""
    return total // workers + (worker < total % workers)


def stream_instances(job: LoadJob, share: Share, phase: str, worker: int) -> list[int]:
    """The instance of each of this worker's closed-loop streams; none in an open loop.

    The warm-up of an open loop is closed, too, where its requests have no times of their own.
    """
    if job.mode == "open" and (phase == "window" or share.timed(phase)):
        return []
    streams = part_of(job.concurrency or max(job.warmup_streams, job.workers), worker, job.workers)
    return [(stream * job.workers + worker) % len(job.base_urls) for stream in range(streams)]


def build_phase(job: LoadJob, share: Share, name: str, worker: int, targets: list[Target], api_key: str) -> Phase:
    """A phase with the bytes of its requests. Which request goes to which instance is settled here, not by chance."""
    streams = stream_instances(job, share, name, worker)
    columns = share.columns
    rows = []
    for position, place in enumerate(share.phases[name]):
        turn = position * job.workers + worker
        instance = streams[position % len(streams)] if streams else turn % len(targets)
        body = body_of(
            columns["prompt"][place],
            columns["messages"][place],
            columns["output_tokens"][place],
            endpoint=job.endpoint,
            model=job.model,
            stream=job.stream,
            temperature=job.temperature,
            ignore_eos=job.ignore_eos,
            extra=job.extra_body,
            length_field=job.length_field,
        )
        name_of_request = request_id(job.cell, name, columns["request"][place], job.run_id)
        path = job.path or PATHS[job.endpoint]
        payload = request_bytes(targets[instance], path, body, api_key, name_of_request, job.headers)
        rows.append(Row(place, payload, instance, int((columns["scheduled_s"][place] or 0.0) * 1e9)))
    window = name == "window"
    return Phase(
        rows,
        streams,
        think_ns=int(job.think_s * 1e9) if window else 0,
        duration_ns=int(job.duration_s * 1e9) if window and streams and job.duration_s is not None else FAR,
        limit=None if job.max_in_flight is None else part_of(job.max_in_flight, worker, job.workers),
        timeout_ns=int(job.timeout_s * 1e9),
    )


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

    async def run(self, api_key: str) -> dict[str, Any]:
        """All phases; returns {"flights": {phase: [...]}, "start_ns": {...}, ...} for `stamps.write_part`."""
        job = self.job
        share = Share.read(job, self.worker)
        targets = [Target.of(url) for url in job.base_urls]
        tls = tls_context(job) if any(target.tls for target in targets) else None
        self.engine = Engine(targets, tls, self.on_landed)
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self.stop)
        loop.add_reader(0, self._hear)
        phases = {name: build_phase(job, share, name, self.worker, targets, api_key) for name in job.phases}
        for instance in range(len(targets)):
            count = max(self._wanted(phase, instance) for phase in phases.values())
            try:
                await self.engine.open(instance, count, job.warm_path, api_key)
            except OSError as error:
                raise UserError(f"cannot connect to {job.base_urls[instance]}: {error}; is the server up?") from None
        self.control.say("ready", connections=len(self.engine.connections), requests=len(share.columns["request"]))
        done: dict[str, Any] = {"share": share, "flights": {}, "start_ns": {}, "instrument": {}}
        for name, phase in phases.items():
            order = await self._orders.get()
            if self.stopped:
                break
            await self._phase(name, phase, order["start_ns"], done)
        done["stopped"] = self.stopped
        loop.remove_reader(0)
        self.engine.close()
        return done

    async def _phase(self, name: str, phase: Phase, start_ns: int, done: dict[str, Any]) -> None:
        """Run one phase with the collector off."""
        self.high_water, self.understood_in_window = self.retained, 0
        self.landed, self.total = 0, len(phase.rows)
        gc.collect()
        gc.freeze()
        gc.disable()
        ticker = asyncio.get_running_loop().create_task(self._tick())
        before, offset = resource.getrusage(resource.RUSAGE_SELF), epoch_offset_ns()
        flights = await self.engine.run(phase, start_ns)
        after, end_ns = resource.getrusage(resource.RUSAGE_SELF), time.monotonic_ns()
        ticker.cancel()
        cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        done["flights"][name] = flights
        done["start_ns"][name] = start_ns
        done["instrument"][name] = {
            "cpu_s": cpu_s,
            "duration_s": (end_ns - start_ns) / 1e9,
            "involuntary_switches": after.ru_nivcsw - before.ru_nivcsw,
            "buffer_high_water": self.high_water,
            "understood_in_window": self.understood_in_window,
            "connections_opened_in_window": self.engine.opened_in_window,
            "partial_writes": sum(flight.partial for flight in flights),
            "cpus": sorted(os.sched_getaffinity(0)),
            "epoch_offset_start_ns": offset,
            "epoch_offset_end_ns": epoch_offset_ns(),
        }
        self.control.say("phase", phase=name, cpu_s=cpu_s)

    def on_landed(self, flight: Flight) -> None:
        """Count what is kept; beyond the bound, understand at once and let the bytes go."""
        self.landed += 1
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
        rows = sum(row.instance == instance for row in phase.rows)
        return min(rows, phase.limit or FAR, self.job.reserve)


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
    control.say(
        "done", part=str(part), instrument=done["instrument"], start_ns=done["start_ns"], stopped=done["stopped"]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
