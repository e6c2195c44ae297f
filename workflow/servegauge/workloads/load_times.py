"""When the requests of a cell are sent: warm-up, ramp, window and tail, each with enough of them.

How long ramp and tail last is known only while they are measured, so that a workload holds more requests for them than
are likely to be sent: of an open loop, as many as arrive in `SPARE_S` and in the time that an answer may take, at
`SPARE_S_PER_TOKEN`; of a closed loop, several rounds of its streams. The times of a search for the capacity are in mean
gaps, and `at_rate.py` repeats its ramp and tail as long as a rate needs them. Arrivals of the ramp follow the window's
process from a time 0 of their own; those of the tail go on where the window ends. Where the process has a shape that
belongs to the window (replay, steps, ramp), they are poisson: the ramp's at the first factor, the tail's at the last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.contract.spec import Load
from servegauge.workloads.arrivals import arrival_times
from servegauge.workloads.recording import Recording
from servegauge.workloads.recordings import kinds

SHAPED = ("steps", "ramp")
WINDOW_ONLY = ("replay", "trace", *SHAPED)
SPARE_S = 3.0
SPARE_S_PER_TOKEN = 0.05
SPARE_ROUNDS, SPARE_LEAST = 4, 16  # of a closed loop: requests a stream, and further ones
OUTPUT_TOKENS = 256  # of an answer of which nothing is known

Times = list[float | None]  # seconds; None: no time of its own


@dataclass(frozen=True)
class LoadTimes:
    """Times of each phase: the warm-up's and the ramp's from their own start, the others from the window's."""

    warmup: Times
    ramp: Times
    window: Times
    tail: Times
    window_s: float | None  # length of an open loop's window; None for the others, which end with their requests

    @property
    def phases(self) -> Mapping[str, Times]:
        """Phase -> its times, in the order in which they are sent."""
        return {"warmup": self.warmup, "ramp": self.ramp, "window": self.window, "tail": self.tail}


def spare_requests(rate_rps: float, output_tokens: float | None) -> int:
    """Requests of an open loop's ramp, and of its tail."""
    each_s = SPARE_S_PER_TOKEN * (output_tokens or OUTPUT_TOKENS)
    return max(SPARE_LEAST, math.ceil(rate_rps * (SPARE_S + each_s)))


def load_times(
    load: Load,
    seeds: Mapping[str, int],
    root: Path,
    output_tokens: float | None = None,
    recording: Recording | None = None,
) -> LoadTimes:
    """The times of `load`. `seeds` has one for warm-up, window and ramp; `output_tokens` is the mean answer length.

    `recording` is that of the prompt set, whose times the process `trace` takes.
    """
    if load.burst is not None:
        return LoadTimes([0.0] * load.warmup_requests, [], [0.0] * (load.burst * load.bursts), [], None)
    if load.concurrency is not None:
        if load.requests is None:
            raise UserError("a closed loop (concurrency) needs load.requests: how many requests to send")
        spare = SPARE_ROUNDS * load.concurrency + SPARE_LEAST
        return LoadTimes([None] * load.warmup_requests, [None] * spare, [None] * load.requests, [None] * spare, None)
    rate = (load.rate_rps or 0.0) if load.capacity is None else 1.0
    arrival, process = load.arrival, load.arrival["process"]
    first, last = (arrival["factors"][0], arrival["factors"][-1]) if process in SHAPED else (1.0, 1.0)
    before: Mapping[str, Any] = arrival if process not in WINDOW_ONLY else {"process": "poisson"}
    spare = spare_requests(rate, output_tokens)
    if load.capacity is not None:
        spare = max(SPARE_LEAST, (load.requests or 0) // 4)

    def drawn(phase: str, process: Mapping[str, Any], rate: float, count: int) -> Times:
        return arrival_times(process, rate, count, None, seeds[phase], root).tolist() if count and rate else []

    own = None
    if process == "trace":
        if recording is None or recording.rate_rps is None:
            raise UserError(
                f"load.arrival: trace takes the times of a recorded prompt set ({', '.join(kinds())}) with two or "
                "more different ones; use another set, or another arrival process"
            )
        own = recording.times_s
    window = arrival_times(arrival, rate, load.requests, load.duration_s, seeds["window"], root, own)
    count = len(window)
    if process in SHAPED:
        mean = sum(arrival["factors"]) / len(arrival["factors"])
        window_s = load.duration_s or (load.requests or 0) / (rate * mean)
        later = drawn("tail", before, rate * last, spare)
        tail: Times = [window_s + when for when in later if when is not None]
    else:
        further = arrival_times(arrival, rate, count + spare, None, seeds["window"], root, own)
        window_s = load.duration_s or math.inf
        if load.requests is not None and count == load.requests:  # it ends where one more request would be due
            next_ones = further[further > window[-1]]
            window_s = min(window_s, float(next_ones[0]) if len(next_ones) else math.inf)
        tail = further[further >= window_s].tolist()
    return LoadTimes(
        drawn("warmup", before, rate, load.warmup_requests),
        drawn("ramp", before, rate * first, spare),
        window.tolist(),
        tail,
        window_s,
    )
