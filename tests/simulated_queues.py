"""Windows of servers whose capacity is known, drawn in memory: what the flag `saturated` says of them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa

from servegauge.contract import flag_registry
from servegauge.contract.flag import CellCase
from servegauge.contract.flags import thresholds_of
from servegauge.contract.formulas import Requests
from servegauge.contract.metrics import in_window
from servegauge.contract.spec import Cell, Load, Workload

Draw = Callable[[np.random.Generator, int], np.ndarray]


def lognormal(spread: float) -> Draw:
    """Times of mean 1 whose deviation is `spread`."""
    sigma = math.sqrt(math.log1p(spread**2))
    return lambda rng, count: np.exp(rng.normal(-(sigma**2) / 2, sigma, count))


SERVICE: Mapping[str, Draw] = {
    "fixed": lambda rng, count: np.ones(count),
    "lognormal 0.5": lognormal(0.5),
    "exponential": lambda rng, count: rng.exponential(1.0, count),
    "lognormal 1.5": lognormal(1.5),
}
ARRIVAL: Mapping[str, Draw] = {
    "poisson": lambda rng, count: rng.exponential(1.0, count),
    "constant": lambda rng, count: np.ones(count),
    "gamma 2": lambda rng, count: rng.gamma(0.25, 4.0, count),
}
Window = tuple[pa.Table, float, Load]


def queue(
    rng: np.random.Generator, slots: int, load: float, requests: int, service: str, arrival: str = "poisson"
) -> Window:
    """Requests of a server of `slots` slots at a share `load` of its capacity; the window's length in s; its load."""
    rate = load * slots
    before = 4 * slots + 50  # a ramp from an empty server
    arrivals = np.cumsum(ARRIVAL[arrival](rng, before + requests + 200)) / rate
    takes = SERVICE[service](rng, len(arrivals))
    begins, free = [], [-math.inf] * slots
    for when, took in zip(arrivals.tolist(), takes.tolist(), strict=True):
        begins.append(max(free[0], when))
        heapq.heapreplace(free, begins[-1] + took)
    process = {"process": arrival.split()[0]}
    window = _window(arrivals, np.array(begins), takes, before, requests)
    return *window, Load(rate_rps=rate, requests=requests, arrival=process)


def closed(
    rng: np.random.Generator,
    slots: int,
    streams: int,
    requests: int,
    service: str,
    load: float | None = None,
    becomes: float | None = None,
) -> Window:
    """The same of `streams` streams, each of which sends when its last answer came, and it has thought.

    It thinks so long that all of them, if none waited, would offer a share `load` of the capacity; None: not at all. As
    the window begins, the server becomes so much slower that they would offer the share `becomes` of it.
    """
    think = 0.0 if load is None else max(0.0, streams / (load * slots) - 1)
    ready, free = [number / streams * (1 + think) for number in range(streams)], [0.0] * slots
    before = 3 * streams
    takes = SERVICE[service](rng, before + requests + streams)
    takes[before:] *= 1.0 if load is None or becomes is None else becomes / load
    sent, begins = [], []
    for took in takes.tolist():
        sent.append(ready[0])
        begins.append(max(free[0], sent[-1]))
        heapq.heapreplace(free, begins[-1] + took)
        heapq.heapreplace(ready, begins[-1] + took + think)
    window = _window(np.array(sent), np.array(begins), takes, before, requests)
    return *window, Load(concurrency=streams, requests=requests, think_s=think, arrival={"process": "closed"})


def slow_start(rng: np.random.Generator, factor: float, requests: int, spread: float) -> Window:
    """Requests that do not wait, of which the window's first quarter takes `factor` times as long as the others."""
    sent, takes = np.cumsum(rng.exponential(1.0, requests + 1)), 5 * lognormal(spread)(rng, requests + 1)
    takes[: requests // 4] *= factor
    return *_window(sent, sent, takes, 0, requests), Load(rate_rps=1.0, requests=requests)


def _window(
    sent: np.ndarray, begins: np.ndarray, takes: np.ndarray, before: int, requests: int
) -> tuple[pa.Table, float]:
    number, start = np.arange(len(sent)), sent[before]
    stamps = {"scheduled_ns": sent, "first_token_ns": begins, "end_ns": begins + takes}
    phase = np.where(number < before, "ramp", np.where(number < before + requests, "window", "tail"))
    table = pa.table(
        {
            "phase": phase,
            "status": ["ok"] * len(sent),
            "output_tokens": np.full(len(sent), 8),
            **{name: ((when - start) * 1e9).astype(np.int64) for name, when in stamps.items()},
        }
    )
    return table, float(sent[before + requests] - start)


def is_raised(requests: pa.Table, window_s: float, load: Load, flag: str = "saturated") -> bool:
    """Whether the flag is raised."""
    window = Requests(requests.filter(in_window(requests)))
    cell = Cell("l", "l-r1", {"name": "p"}, load, Workload({"name": "p"}, {"name": "m"}, {}), load.protocol)
    case = CellCase(window, cell, {"window": {"duration_s": window_s}}, thresholds_of(), load=Requests(requests))
    return bool(list(flag_registry.flags()[flag].check(case)))


def share_raised(
    draw: Callable[[np.random.Generator], Window], seed: list[int], windows: int, flag: str = "saturated"
) -> float:
    """Share of `windows` windows in which the flag is raised."""
    rng = np.random.default_rng(seed)
    return sum(is_raised(*draw(rng), flag) for _ in range(windows)) / windows
