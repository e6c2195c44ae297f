"""The queue grew over the window: more was offered than the server carries."""

import math
from collections.abc import Iterator

from servegauge.contract.flag import UNFIT_LATENCY, CellCase, Doubt, Flag, Threshold

STEADY_PROCESSES = ("poisson", "constant", "gamma", "closed")
FEWEST = 8  # requests
FEW = 2.0  # roots of the number of requests: below about 120, growth must be so large to be no chance
SPREAD = 2.0  # roots of the requests in flight: with many, their number wanders by chance
FLOOR = 3.0  # a queue that grows does not fall back to where it began: its least number has grown by this, too,
FLOOR_SPREAD = 0.3  # and so many roots of what it was


def least_growth(asked: float, requests: int, in_flight: float) -> float:
    """Growth above which a queue grows not by chance: see docs/instrument.md for its power and false alarms."""
    return min(max(asked, SPREAD * math.sqrt(in_flight)), FEW * math.sqrt(requests))


def check(case: CellCase) -> Iterator[Doubt]:
    process = case.cell.load.arrival.get("process", "poisson")
    if case.cell.protocol == 1 or process not in STEADY_PROCESSES or not case.window_ns or case.window.count < FEWEST:
        return
    growth = case.around.in_flight_growth(case.window_ns)
    least = least_growth(case.thresholds["queue_growth"], case.window.count, growth.mean)
    if growth.gained > least and growth.floor_gained > FLOOR + FLOOR_SPREAD * math.sqrt(growth.floor):
        began = max(0.0, growth.mean - growth.gained / 2)
        detail = f"requests in flight grew by {growth.gained:.0f} over the window, from about {began:.0f}"
        yield Doubt(growth.gained, least, detail)


SATURATED = Flag(
    name="saturated",
    meaning="The queue grew over the window: latencies depend on its length, the rate is what the server carries.",
    remedy="Lower the load below what the server carries, or compare rates instead of latencies.",
    severity=UNFIT_LATENCY,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "queue_growth",
            22,
            "requests in flight gained from start to end of the window are more than (fewer in windows of under 120)",
        ),
    ),
    position=79,
)
