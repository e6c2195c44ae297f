"""What one generator process sends: the phases of a load, with the bytes of every request, made before it starts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import PATHS, Target, body_of, request_bytes, request_id
from servegauge.instrument.share import Share

FAR = 1 << 62  # a time that never comes
RAMP_S = 2.0  # the least length of an open loop's ramp, where the study does not say; in a short window
SHORT_RAMP = 1 / 3  # this part of it


@dataclass(frozen=True)
class Row:
    """One request to be sent: its place in the worker's share, its bytes, its instance, its time in the phase in ns."""

    place: int
    payload: bytes
    instance: int
    scheduled_ns: int = 0


@dataclass(frozen=True)
class Phase:
    """What to send: an open loop by each row's time, or a closed loop of `streams` streams.

    `stream_instances` gives the instance of each stream; `limit` is the most requests in flight, None for none. A phase
    that is `held` has a window: `ramp` rows are sent until `open_window`, then `rows`, then `tail` rows until `finish`.
    Times of `rows` and `tail` are from the window's start. Without `held`, `rows` are sent, and that is all.
    """

    rows: Sequence[Row]
    stream_instances: Sequence[int] = ()
    think_ns: int = 0
    limit: int | None = None
    timeout_ns: int = 300_000_000_000
    held: bool = False
    ramp: Sequence[Row] = ()
    tail: Sequence[Row] = ()
    ramp_ns: int = 0  # least length of the ramp
    window_ns: int = FAR  # length of the window; closed loop: at most
    starts_ns: Sequence[int] = ()  # closed loop: when each stream starts, from the start of the ramp; none: at once
    # Sessions: place of a row -> the next one of its session, and how long after its answer that is sent, ns. The other
    # fields hold the first row of each session.
    follows: Mapping[int, tuple[Row, int]] = field(default_factory=dict)

    @property
    def closed_loop(self) -> bool:
        return bool(self.stream_instances)

    @property
    def quota(self) -> int:
        """Requests of `rows`, those that follow in their sessions included."""
        count = len(self.rows)
        for row in self.rows if self.follows else ():
            while row.place in self.follows:
                row = self.follows[row.place][0]
                count += 1
        return count


def part_of(total: int, worker: int, workers: int) -> int:
    """How many of `total` streams (or slots) this worker has: they differ by one at most."""
    return total // workers + (worker < total % workers)


def stream_instances(job: LoadJob, share: Share, phase: str, worker: int) -> list[int]:
    """The instance of each of this worker's closed-loop streams; none in an open loop.

    The warm-up of an open loop is closed, too, where its requests have no times of their own.
    """
    if job.load.loop != "closed" and (phase != "warmup" or share.timed(phase)):
        return []
    streams = part_of(job.load.concurrency or max(job.warmup_streams, job.workers), worker, job.workers)
    return [(stream * job.workers + worker) % len(job.base_urls) for stream in range(streams)]


def build_rows(
    job: LoadJob,
    share: Share,
    name: str,
    worker: int,
    targets: list[Target],
    api_key: str,
    follows: dict[int, tuple[Row, int]],
) -> list[Row]:
    """Requests of one phase with their bytes. Which goes to which instance is settled here, not by chance.

    Those that follow in sessions, which stay on the instance of their first one, go into `follows`.
    """
    streams = stream_instances(job, share, name, worker)
    columns = share.columns

    adapters = columns.get("adapter")

    def row_of(place: int, instance: int) -> Row:
        adapter = {job.adapter_field: adapters[place]} if adapters and adapters[place] else {}
        body = body_of(
            job.load,
            job.model,
            columns["prompt"][place],
            columns["messages"][place],
            columns["output_tokens"][place],
            {**job.extra_body, **adapter},
            job.length_field,
        )
        name_of_request = request_id(job.cell, name, columns["request"][place], job.run_id)
        path = job.path or PATHS[job.load.endpoint]
        payload = request_bytes(targets[instance], path, body, api_key, name_of_request, job.headers)
        return Row(place, payload, instance, int((columns["scheduled_s"][place] or 0.0) * 1e9))

    rows = []
    for position, place in enumerate(share.phases[name]):
        turn = position * job.workers + worker
        instance = streams[position % len(streams)] if streams else turn % len(targets)
        rows.append(row_of(place, instance))
        before = place
        for later in share.follows.get(place, ()):
            follows[before] = row_of(later, instance), int((columns["pause_s"][later] or 0.0) * 1e9)
            before = later
    return rows


def build_phases(job: LoadJob, share: Share, worker: int, targets: list[Target], api_key: str) -> dict[str, Phase]:
    """What is run, by name: the warm-up and the load, or each burst of it by its number."""

    follows: dict[int, tuple[Row, int]] = {}  # by the places of rows, so that all phases can share it

    def rows(name: str) -> list[Row]:
        return build_rows(job, share, name, worker, targets, api_key, follows)

    limit = None if job.load.max_in_flight is None else part_of(job.load.max_in_flight, worker, job.workers)
    timeout_ns = int(job.load.timeout_s * 1e9)
    phases = {}
    if "warmup" in job.phases:
        streams = stream_instances(job, share, "warmup", worker)
        phases["warmup"] = Phase(rows("warmup"), streams, limit=limit, timeout_ns=timeout_ns, follows=follows)
    if "window" in job.phases and job.load.loop == "burst":
        all_rows = rows("window")
        size = math.ceil(len(all_rows) / job.load.bursts)
        for number in range(job.load.bursts):
            phases[f"burst-{number}"] = Phase(
                all_rows[number * size : (number + 1) * size], limit=limit, timeout_ns=timeout_ns
            )
    elif "window" in job.phases:
        streams = stream_instances(job, share, "window", worker)
        longest_s = job.load.duration_s if streams else share.window_s(job)
        phases["window"] = Phase(
            rows("window"),
            streams,
            think_ns=int(job.load.think_s * 1e9),
            limit=limit,
            timeout_ns=timeout_ns,
            held=True,
            ramp=rows("ramp"),
            tail=rows("tail"),
            window_ns=FAR if longest_s is None else int(longest_s * 1e9),
            follows=follows,
        )
    return phases


def with_ramp(phase: Phase, job: LoadJob, worker: int, e2e_s: Sequence[float]) -> Phase:
    """The load with the length of its ramp and the starts of its streams, from the warm-up's end-to-end times."""
    closed = phase.closed_loop
    known = (statistics.median(e2e_s) if closed else max(e2e_s)) if e2e_s else job.expected_e2e_s or 0.0
    floor_s = 0.0 if closed else min(RAMP_S, SHORT_RAMP * phase.window_ns / 1e9)
    least_s = max(known if not closed else 0.0, floor_s) if job.load.ramp_s is None else job.load.ramp_s
    total = job.load.concurrency or 1
    # Over a whole round: streams that think and all start within one answer would come back together ever after.
    gap_s = 0.0 if job.load.start == "together" else (known + job.load.think_s) / total
    starts = [int((stream * job.workers + worker) * gap_s * 1e9) for stream in range(len(phase.stream_instances))]
    return replace(phase, ramp_ns=int(least_s * 1e9), starts_ns=starts)
