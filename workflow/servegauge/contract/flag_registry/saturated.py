"""The queue grows: more was offered than the server carries.

Open loop: a server that carries its load works faster than requests come whenever many are in flight, or the queue
would not shrink again; one that does not carry it never does. How fast it works then, over the rate that was offered,
needs no luck in the arrivals, so it tells from fewer requests than the growth of the queue, which is added with a
small weight. Closed loop: streams that wait send less, so that no queue grows for long, and latencies depend on the
number of streams and not on the window's length. But where streams think (or sessions pause), a server that becomes too
slow for them gathers them: requests in flight must have grown by more than chance.
"""

import math
from collections.abc import Iterator

from servegauge.contract.flag import UNFIT_LATENCY, CellCase, Doubt, Flag, Threshold

STEADY_PROCESSES = ("poisson", "constant", "gamma", "closed")
FEWEST = 8  # requests
CARRIED, CHANCE, LEAST_SPREAD = 1.04, 1.6, 0.7  # a server is full for about half of a window: see docs/instrument.md
GROWTH = 0.3  # weight of the queue's growth, in parts of the requests
STREAMS = 3.0  # closed loop: deviations of the number in flight, each stream being in flight or thinking by chance
SPREAD = 2.0  # roots of the requests in flight: with many, their number wanders by chance
FLOOR = 3.0  # a queue that grows does not fall back to where it began: its least number has grown by this, too,
FLOOR_SPREAD = 0.3  # and so many roots of what it was


def least_carried(asked: float, requests: int, spread: float) -> float:
    """Share below which a load is not carried. `spread`: of the times of answering, standard deviation / mean."""
    return min(asked, CARRIED - CHANCE * max(LEAST_SPREAD, spread) / math.sqrt(requests))


def overload_seen(requests: int, spread: float) -> float:
    """About how often a window of an open loop shows an offered load of 1.05 of the capacity: plans say it."""
    shown, deviation = (1 - GROWTH * 0.05) / 1.05, 1.3 * max(spread, 0.2) / math.sqrt(requests)  # as simulated
    return 0.5 * math.erfc((shown - least_carried(0.99, requests, spread)) / deviation / math.sqrt(2))


def least_growth(asked: float, streams: float, in_flight: float) -> float:
    """Growth above which the requests in flight of so many streams, and on average so many, grow not by chance."""
    deviation = math.sqrt(max(0.0, in_flight * (1 - in_flight / streams)))
    return min(max(asked, SPREAD * math.sqrt(in_flight)), STREAMS * deviation)


def check(case: CellCase) -> Iterator[Doubt]:
    load, requests = case.cell.load, case.window.count
    process = load.arrival.get("process", "poisson")
    if case.cell.protocol == 1 or process not in STEADY_PROCESSES or not case.window_ns or requests < FEWEST:
        return
    growth = case.around.in_flight_growth(case.window_ns)
    grew = f"requests in flight grew by {growth.gained:.0f} over the window"
    if load.rate_rps is not None:
        # The rate of a load of sessions is of sessions.
        rate = load.rate_rps if not case.window.sessions else requests / (case.window_ns / 1e9)
        carried = case.around.carried_share(case.window_ns, rate)
        least = least_carried(case.thresholds["carried_share"], requests, case.window.answering_spread)
        if carried is not None and carried - GROWTH * growth.gained / requests < least:
            detail = f"while many were in flight, the server did {carried:.2f} of the work that was offered; {grew}"
            yield Doubt(carried - GROWTH * growth.gained / requests, least, detail)
        return
    # A workload that was frozen for `servegauge load` does not say how many streams: then as if nothing bounded them.
    streams = load.concurrency or math.inf
    least = least_growth(case.thresholds["queue_growth"], streams, growth.mean)
    if growth.gained > least and growth.floor_gained > FLOOR + FLOOR_SPREAD * math.sqrt(growth.floor):
        yield Doubt(growth.gained, least, f"{grew}, from about {max(0.0, growth.mean - growth.gained / 2):.0f}")


SATURATED = Flag(
    name="saturated",
    meaning="The queue grew over the window: latencies depend on its length, the rate is what the server carries.",
    remedy="Lower the load below what the server carries, or compare rates instead of latencies.",
    severity=UNFIT_LATENCY,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "carried_share",
            0.99,
            "open loop: work done while many requests are in flight / work offered, less 0.3 times the growth of the "
            "requests in flight / requests, is below (lower in windows of few requests)",
        ),
        Threshold(
            "queue_growth",
            22,
            "closed loop: requests in flight gained from start to end of the window are more than (fewer where few "
            "streams think)",
        ),
    ),
    position=79,
)
