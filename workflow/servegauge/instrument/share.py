"""What one generator process has to send, and what it makes of what came back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from servegauge.instrument.answers import Answer, understand
from servegauge.instrument.connection import InFlight
from servegauge.instrument.http_stream import read_message
from servegauge.instrument.job import LoadJob

PHASES = ("warmup", "ramp", "window", "tail")


@dataclass
class Share:
    """This worker's part of the workload: rows of a table, taken by position modulo the number of workers.

    Of a session, `phases` has its first row in a phase, and `follows` those that follow it there.
    """

    columns: dict[str, list[Any]]
    phases: dict[str, list[int]]  # phase -> places in the columns
    follows: dict[int, list[int]] = field(default_factory=dict)  # place -> places

    @classmethod
    def read(cls, job: LoadJob, worker: int) -> Share:
        import pyarrow.parquet as pq

        names = ["request", "phase", "scheduled_s", "prompt", "messages", "prompt_tokens", "output_tokens"]
        schema = pq.read_schema(job.workload)
        also = ("session", "turn", "pause_s", *(["adapter"] if job.adapter_field else []))
        names += [name for name in also if name in schema.names]
        columns = pq.read_table(job.workload, columns=names, use_threads=False).to_pydict()
        follows = _follows(columns)
        later = {place for places in follows.values() for place in places}
        mine: dict[str, list[int]] = {}
        for phase in PHASES:
            places = [place for place, name in enumerate(columns["phase"]) if name == phase and place not in later]
            if phase == "window" and job.load.loop == "open" and job.load.duration_s is not None:
                places = [place for place in places if columns["scheduled_s"][place] < job.load.duration_s]
            if phase in ("ramp", "tail") and (job.plain or job.load.loop == "burst"):
                places = []
            mine[phase] = list(islice(places, worker, None, job.workers))
        return cls(columns, mine, follows)

    def window_s(self, job: LoadJob) -> float:
        """Length of an open loop's window: as the job says, else until the tail begins, or would begin."""
        if job.window_s is not None:
            return job.window_s
        if job.load.duration_s is not None:
            return job.load.duration_s
        pairs = list(zip(self.columns["scheduled_s"], self.columns["phase"], strict=True))
        if tail := [when for when, name in pairs if name == "tail" and when is not None]:
            return min(tail)
        times = [when for when, name in pairs if name == "window" and when is not None]
        return max(times, default=0.0) * (1 + 1 / max(1, len(times) - 1)) + 1e-9

    def opening_s(self, earliest_s: float) -> float:
        """When the window of an open loop opens, in seconds from the start of its ramp: not before `earliest_s`.

        The window begins where the ramp's next request would have been, so that the process of arrivals goes on.
        """
        columns = self.columns
        ramp = (when for when, name in zip(columns["scheduled_s"], columns["phase"], strict=True) if name == "ramp")
        return min((when for when in ramp if when is not None and when >= earliest_s), default=earliest_s)

    def timed(self, phase: str) -> bool:
        """True where every request of the phase has its own time."""
        return all(self.columns["scheduled_s"][place] is not None for place in self.phases[phase])


@dataclass
class Done:
    """What one generator process did: its flights and the start of each phase (ns), and an account of each."""

    share: Share
    flights: dict[str, list[InFlight]] = field(default_factory=dict)
    start_ns: dict[str, int] = field(default_factory=dict)
    instrument: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: bool = False


def _follows(columns: Mapping[str, list[Any]]) -> dict[int, list[int]]:
    """First row of each session in its phase -> the rows that follow it."""
    found: dict[int, list[int]] = {}
    first: dict[tuple[str, int], int] = {}
    for place, session in enumerate(columns.get("session", ())):
        head = first.setdefault((columns["phase"][place], session), place)
        if head != place:
            found.setdefault(head, []).append(place)
    return found


def understood(flight: InFlight) -> Answer:
    """What came back on a flight, and its status: how it ended comes before what it holds."""
    answer = understand(read_message(flight.reads, flight.stamps, flight.closed), flight.end_ns)
    if flight.outcome is not None:
        answer.status, answer.error = flight.outcome, flight.error
    return answer
