"""The queue grew, as measuring protocol 1 saw it, without a ramp. `saturated` is what protocol 2 has."""

import math
from collections.abc import Iterator

from servegauge.contract.flag import UNFIT_LATENCY, CellCase, Doubt, Flag, Threshold, above

STEADY_PROCESSES = ("poisson", "constant", "gamma")
FEWEST = 8  # requests
CHANCE = 3.0  # standard deviations of a Poisson count that growth must exceed


def check(case: CellCase) -> Iterator[Doubt]:
    load, window = case.cell.load, case.window
    if case.cell.protocol != 1:
        return
    if load.rate_rps is None or load.arrival.get("process", "poisson") not in STEADY_PROCESSES:
        return
    if window.count < FEWEST:
        return
    second, last = window.mean_in_flight(0.25, 0.5), window.mean_in_flight(0.75, 1.0)
    # The mean of a quarter is steadier than one count, so this asks for more than chance would do.
    if last - second <= CHANCE * math.sqrt(second + 1):
        return
    detail = f"on average {second:.1f} requests in flight in the second quarter of the arrivals, {last:.1f} in the last"
    yield from above(case, "in_flight_growth", last / second if second else last, detail)


NOT_STEADY = Flag(
    name="not_steady",
    meaning="By measuring protocol 1, the queue grew while requests came: latencies depend on the window's length.",
    remedy="Lower the rate below what the server carries, or compare rates instead of latencies.",
    severity=UNFIT_LATENCY,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "in_flight_growth",
            1.5,
            "of protocol 1: requests in flight, last quarter of the arrivals / second, is above, and not by chance",
        ),
    ),
    position=80,
)
