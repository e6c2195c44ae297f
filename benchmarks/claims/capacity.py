#!/usr/bin/env python3
"""How much searches for the capacity scatter by chance alone; prints the table of docs/statistics.md.

    python benchmarks/claims/capacity.py                 # 8 searches a setting, two minutes on a core

Servers with slots whose requests take 1 s in the mean and may wait for 3 s (99 %); each search draws arrivals and times
of its own, and asks `saturated` as a launch does.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from servegauge.instrument.capacity import first_rate, lower_bound, search
from tests.simulated_queues import is_raised, queue

SEED, SHARE, WAIT_NS = 20261127, 0.99, 3e9
REQUESTS = (300, 1000, 3000)
SETTINGS = [
    (slots, service, arrival)
    for slots in (8, 64)
    for service, arrival in (("fixed", "poisson"), ("exponential", "poisson"), ("exponential", "constant"))
]


def attains(rate: float, seed: int, slots: int, service: str, arrival: str, requests: int) -> bool:
    """What a window at this rate says; the same draws at every rate of a search."""
    rng = np.random.default_rng([SEED, seed, slots, requests])
    table, window_s, load = queue(rng, slots, rate / slots, requests, service, arrival)
    waited = table["first_token_ns"].to_numpy() - table["scheduled_ns"].to_numpy()
    inside = waited[table["phase"].to_numpy() == "window"]
    return lower_bound(int((inside <= WAIT_NS).sum()), requests) >= SHARE and not is_raised(table, window_s, load)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=8, help="simulated searches a setting; default: 8")
    arguments = parser.parse_args()
    print(f"| slots, service, arrivals | {' | '.join(f'{count:,} requests' for count in REQUESTS)} |")
    for slots, service, arrival in SETTINGS:
        said = []
        for requests in REQUESTS:
            found = []
            for seed in range(arguments.searches):
                asks = partial(attains, seed=seed, slots=slots, service=service, arrival=arrival, requests=requests)
                found.append(search(asks, first_rate(slots / 2, f"c{seed}"), 1000.0 * slots).low_rps)
            values = np.array(found, float) / slots
            said.append(f"{np.nanmean(values):.3f} ± {100 * np.nanstd(np.log(values), ddof=1):.1f} %")
        print(f"| {slots} slots, {service}, {arrival} | {' | '.join(said)} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
