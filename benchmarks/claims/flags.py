#!/usr/bin/env python3
"""How often simulated windows raise `saturated` and `ramp_short`; prints the tables of docs/instrument.md.

python benchmarks/claims/flags.py                  # 400 windows a setting, three minutes on two cores
python benchmarks/claims/flags.py --windows 50
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy.special import ndtr, ndtri

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.simulated_queues import Window, closed, queue, share_raised, slow_start

SEED = 20261127
REQUESTS = (200, 500, 1000, 2000)
LOADS = (1.05, 0.9, 0.5)
OPEN = [
    *((slots, service, "poisson") for slots in (1, 8, 64) for service in ("fixed", "lognormal 0.5", "exponential")),
    (8, "lognormal 1.5", "poisson"),
    (8, "exponential", "constant"),
    (64, "lognormal 0.5", "constant"),
    (8, "lognormal 0.5", "gamma 2"),
]
CLOSED = [(8, 8, "exponential"), (8, 32, "exponential"), (64, 64, "lognormal 0.5"), (64, 256, "fixed")]
THINKING = [
    (slots, streams, service)
    for slots, streams in ((8, 16), (8, 64), (8, 256), (64, 256), (64, 1024))
    for service in ("fixed", "lognormal 0.5", "exponential")
]
BECOMES = (None, 1.05, 1.5, 2.0)  # what streams that offered 0.9 of the capacity offer from the window's start on
STEADY = [(slots, service) for slots in (1, 8, 64) for service in ("fixed", "exponential")]  # at 0.9 of the capacity
SLOW = [(spread, factor) for spread in (0.2, 0.5, 1.0) for factor in (1.15, 1.3, 2.0)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=400, help="simulated windows a setting; default: 400")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="default: one for each CPU")
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.processes) as pool:
        ask = partial(line_of, windows=arguments.windows)
        print(f"| open loop | {' | '.join(f'{count:,} requests' for count in REQUESTS)} |")
        for line in pool.map(ask, OPEN):
            print(line, flush=True)
        print("| closed loop | | | | |")
        for line in pool.map(partial(closed_line, windows=arguments.windows), CLOSED):
            print(line, flush=True)
        print("| streams that think | | | | |")
        for line in pool.map(partial(thinking_line, windows=arguments.windows), THINKING):
            print(line, flush=True)
        print("| ramp_short | | | | |")
        for line in pool.map(partial(slow_line, windows=arguments.windows), [*STEADY, *SLOW]):
            print(line, flush=True)
    print("| most that a test could see of exponential service, at 5 % of false alarms |", end="")
    print("".join(f" {100 * best_power(count):.0f} % |" for count in REQUESTS))
    return 0


def line_of(setting: tuple[int, str, str], windows: int) -> str:
    """A row: raised at 1.05 of the capacity / 0.9 / 0.5."""
    slots, service, arrival = setting
    cells = []
    for requests in REQUESTS:
        said = []
        for load in LOADS:
            draw = partial(queue, slots=slots, load=load, requests=requests, service=service, arrival=arrival)
            said.append(f"{100 * share_raised(draw, [SEED, slots, requests, round(100 * load)], windows):.0f}")
        cells.append(" / ".join(said))
    return f"| {slots} slots, {service}, {arrival} | {' | '.join(cells)} |"


def closed_line(setting: tuple[int, int, str], windows: int) -> str:
    """A row: raised falsely."""
    slots, streams, service = setting
    said = []
    for requests in REQUESTS:
        draw = partial(closed, slots=slots, streams=streams, requests=requests, service=service)
        said.append(f"{100 * share_raised(draw, [SEED, slots, streams, requests], windows // 2):.0f}")
    return f"| {slots} slots, {streams} streams, {service} | {' | '.join(said)} |"


def thinking_line(setting: tuple[int, int, str], windows: int) -> str:
    """A row: raised in the steady state at 0.5 of the capacity / at 0.9 / from 0.9 to each of `BECOMES`."""
    slots, streams, service = setting
    cells = []
    for requests in REQUESTS:
        said = []
        for load, becomes in [(0.5, None), *((0.9, becomes) for becomes in BECOMES)]:
            draw = partial(
                closed, slots=slots, streams=streams, requests=requests, service=service, load=load, becomes=becomes
            )
            seed = [SEED, slots, streams, requests, round(100 * (becomes or load))]
            said.append(f"{100 * share_raised(draw, seed, windows // 2):.0f}")
        cells.append(" / ".join(said))
    return f"| {slots} slots, {streams} streams, {service} | {' | '.join(cells)} |"


def slow_line(setting: tuple[float, str | float], windows: int) -> str:
    """A row of `ramp_short`: of servers in their steady state, or of windows whose first quarter is slower."""
    first, second = setting
    said = []
    for requests in REQUESTS:
        draw: Callable[[np.random.Generator], Window]
        if isinstance(second, str):
            draw = partial(queue, slots=int(first), load=0.9, requests=requests, service=second)
        else:
            draw = partial(slow_start, factor=second, requests=requests, spread=first)
        said.append(f"{100 * share_raised(draw, [SEED, requests, round(100 * first)], windows, 'ramp_short'):.0f}")
    steady = isinstance(second, str)
    title = f"steady at 0.9: {first} slots, {second}" if steady else f"deviation {first:g} of the mean, x {second:g}"
    return f"| {title} | {' | '.join(said)} |"


def best_power(requests: int) -> float:
    """Power of the best test of 1.05 against 0.9 that sees `requests` exponential services of a server always full.

    It knows the slots and the form of the services, and estimates their rate: the logarithm of the estimate deviates by
    1 / sqrt(requests).
    """
    return float(ndtr(math.log(1.05 / 0.9) * math.sqrt(requests) - ndtri(0.95)))


if __name__ == "__main__":
    raise SystemExit(main())
