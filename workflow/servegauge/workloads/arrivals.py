"""When requests are sent in an open loop: arrival processes, exact for a seed.

Every process is drawn from one numpy Generator (PCG64) of the seed, so the same arguments give the same times on every
machine with the locked numpy. With `requests`, that many times come back; with `duration_s`, the times before it; with
both, whichever ends first. A longer window begins with the times of the shorter one, except for steps and ramp, whose
shape is stretched over the window.

Time 0 is the start of the window. `rate_rps` is the mean rate of every process:

- constant: request i at i / rate, so the first at 0.
- poisson: independent exponential gaps of mean 1 / rate, the first gap before the first request.
- gamma: gaps of mean 1 / rate and coefficient of variation 1 / sqrt(shape); shape 1 is poisson.
- burst: `size` requests at once, at 0 and then each size / rate.
- replay: recorded times (a file's lines, in seconds) moved to 0 and stretched to the rate; used up, they start over.
- trace: the times of the prompt set's recording, in the same way; a cell's `speed` is turned into its rate.
- steps: a Poisson process whose rate is `factors` times the rate, each for an equal part of the window.
- ramp: the same with a factor that goes evenly from the first to the second of two `factors`.

For steps and ramp the factors are relative to `rate_rps`, which is their mean only when the factors' mean is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servegauge.base.errors import UserError, did_you_mean
from servegauge.workloads.recordings import kinds

PROCESSES = ("poisson", "constant", "gamma", "burst", "replay", "trace", "steps", "ramp")
CHUNK = 4096  # gaps drawn at a time; one stream whatever the size, so it does not show in the result

_OWN = {"gamma": "shape", "burst": "size", "replay": "path", "steps": "factors", "ramp": "factors"}
_OPTIONS = ("shape", "size", "path", "factors")
RATES = (1e-6, 1e6)  # requests per second: beyond, times are no longer apart, or no longer come
SHAPES = (1e-3, 1e6)  # of gamma: below, gaps of 0 between pauses without end; above, constant
MOST_REQUESTS = 10_000_000  # of one window: each of them is held in memory

Times = np.ndarray  # float64, seconds from the start of the window, never decreasing


def arrival_times(
    arrival: Mapping[str, Any],
    rate_rps: float,
    requests: int | None = None,
    duration_s: float | None = None,
    seed: int = 0,
    root: Path = Path(),
    recorded: Times | None = None,
) -> Times:
    """Times in seconds at which requests are sent, float64, never decreasing.

    `arrival` is `{"process": one of PROCESSES, ...}`; `root` is where a replay's relative path starts, `recorded` are
    the times of `trace`, from 0. UserError for an unknown process, for what a process needs and does not have or is no
    number for it (`wrong_arrival`), and where neither `requests` nor `duration_s` is given.
    """
    process = arrival.get("process")
    if process not in PROCESSES:
        raise UserError(
            f"unknown arrival process {process!r}; there are: {', '.join(PROCESSES)}.{did_you_mean(process, PROCESSES)}"
        )
    wrong = wrong_arrival(arrival, rate_rps, requests, duration_s)
    if wrong:
        raise UserError(f"arrival process {process}: {wrong}")
    draw = np.random.default_rng(seed)
    if process in ("steps", "ramp"):
        return _shaped(process, arrival["factors"], rate_rps, requests, duration_s, draw)
    count = requests if requests is not None else np.inf
    until = duration_s if duration_s is not None else np.inf
    if process == "constant":
        return _regular(1, rate_rps, count, until)
    if process == "burst":
        return _regular(int(arrival["size"]), rate_rps, count, until)
    if process == "replay":
        return _replayed(recorded_times(Path(arrival["path"]), root), rate_rps, count, until)
    if process == "trace":
        if recorded is None:
            raise UserError(f"arrival process trace: it needs a prompt set that is a recording ({', '.join(kinds())})")
        return _replayed(recorded, rate_rps, count, until)
    shape = float(arrival["shape"]) if process == "gamma" else 1.0
    return _renewal(shape, rate_rps, count, until, draw)


def wrong_arrival(
    arrival: Mapping[str, Any], rate_rps: float | None, requests: int | None, duration_s: float | None
) -> str | None:
    """What of a known process cannot be drawn, in words; None where all can. Reads no file."""
    process, factors = arrival["process"], arrival.get("factors")
    for key in sorted(set(_OPTIONS) & set(arrival)):
        if arrival[key] is not None and _OWN.get(process) != key:
            owners = " and ".join(owner for owner in PROCESSES if _OWN.get(owner) == key)
            return f"`{key}` belongs to {owners}; leave it out"
    if rate_rps is None or not _within(rate_rps, *RATES):
        return f"the rate is {rate_rps}; it must be from {RATES[0]:g} to {RATES[1]:g} requests a second"
    if requests is None and duration_s is None:
        return "give `requests`, `duration_s` or both, or it never ends"
    if requests is not None and not (_whole(requests) and 1 <= requests <= MOST_REQUESTS):
        return f"`requests` is {requests}; it must be a whole number from 1 to {MOST_REQUESTS}"
    if duration_s is not None and not _within(duration_s, 0.0, np.inf):
        return f"`duration_s` is {duration_s}; it must be a number of seconds above 0"
    needed = _OWN.get(process)
    if needed is not None and arrival.get(needed) is None:
        return f"it needs `{needed}`"
    if process == "gamma" and not _within(arrival["shape"], *SHAPES):
        return f"`shape` is {arrival['shape']}; it must be a number from {SHAPES[0]:g} to {SHAPES[1]:g}"
    if process == "burst" and not (_whole(arrival["size"]) and 1 <= arrival["size"] <= MOST_REQUESTS):
        return f"`size` is {arrival['size']}; it must be a whole number of requests from 1 to {MOST_REQUESTS}"
    mean = 1.0
    if needed == "factors":
        if not isinstance(factors, Sequence) or isinstance(factors, str) or not factors:
            return f"`factors` is {factors!r}; it must be a list of numbers"
        if not all(_within(factor, -1e-300, RATES[1]) for factor in factors):
            return f"`factors` are {list(factors)}; each must be a number from 0 to {RATES[1]:g}"
        if process == "ramp" and len(factors) != 2:
            return f"it needs two `factors`, the first and the last; it has {len(factors)}"
        mean = float(np.mean(factors))
        if not mean > 0:
            return "all of its `factors` are 0, so no request would ever be sent"
        if not _within(mean * rate_rps, *RATES):
            return (
                f"its mean rate is {mean * rate_rps:g}; it must be from {RATES[0]:g} to {RATES[1]:g} requests a second"
            )
    expected = rate_rps * mean * (duration_s or 0.0)
    if requests is None and expected > MOST_REQUESTS:
        return f"{expected:.3g} requests would be drawn in {duration_s:g} s; the most are {MOST_REQUESTS}"
    return None


def _within(value: Any, least: float, most: float) -> bool:
    """True for a finite number in this range; at 0, and for a range that begins there, only above it."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        return False
    return bool(value >= least and value <= most and (value != 0 or least < 0))


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def recorded_times(path: Path, root: Path = Path()) -> Times:
    """Times of a replay's file: one number a line, in seconds, `#` comments; sorted and moved to 0. UserError else."""
    file = root / path
    try:
        times = np.sort(np.loadtxt(file, dtype=np.float64, ndmin=1))
    except FileNotFoundError as error:
        raise UserError(f"the recorded arrival times {file} are not on this machine; put the file there") from error
    except ValueError as error:
        raise UserError(f"{file}: not one time in seconds a line: {error}") from error
    if times.ndim != 1 or times.size < 2 or not np.all(np.isfinite(times)) or times[-1] <= times[0]:
        raise UserError(f"{file}: at least two different times are needed, one a line")
    return times - times[0]


def _renewal(shape: float, rate: float, count: float, until: float, draw: np.random.Generator) -> Times:
    """Independent gaps: exponential for shape 1, else gamma."""
    parts, total, end = [], 0, 0.0
    while total < count and end < until:
        # Gamma of shape 1 takes poisson's draws, so the two are the same times.
        gaps = draw.standard_exponential(CHUNK) if shape == 1.0 else draw.standard_gamma(shape, CHUNK) / shape
        times = end + np.cumsum(gaps / rate)
        parts.append(times)
        total, end = total + CHUNK, float(times[-1])
    times = np.concatenate(parts)
    return times[: int(min(count, int(np.searchsorted(times, until, side="left"))))]


def _regular(size: int, rate: float, count: float, until: float) -> Times:
    """`size` requests at once, each size / rate seconds."""
    if np.isinf(count):
        count = size * np.ceil(until * rate / size)
    times = np.arange(int(count)) // size * (size / rate)
    return times[times < until].astype(np.float64)


def _replayed(recorded: Times, rate: float, count: float, until: float) -> Times:
    """The recording stretched to `rate`; one round lasts as many mean gaps as it has requests."""
    stretched = recorded * ((recorded.size - 1) / recorded[-1] / rate)
    one_round = recorded.size / rate
    rounds = int(np.ceil(min(count / recorded.size, until / one_round))) + 1
    times = (np.arange(rounds)[:, None] * one_round + stretched[None, :]).ravel()
    return times[: int(min(count, int(np.searchsorted(times, until, side="left"))))]


def _shaped(
    process: str,
    factors: Sequence[float],
    rate: float,
    requests: int | None,
    until: float | None,
    draw: np.random.Generator,
) -> Times:
    """A Poisson process whose rate follows `factors` over the window, by inverting its integrated rate.

    With a duration the number of requests is random, with `requests` alone the window's length follows from them and
    exactly that many are drawn in it (a Poisson process given its count is that many independent points).
    """
    mean = float(np.mean(factors))
    if until is not None:
        length = until
    elif requests is not None:
        length = requests / (rate * mean)
    else:
        raise ValueError("a shaped process needs a duration or a number of requests")
    expected = rate * mean * length
    if until is None:
        points = np.sort(draw.random(requests)) * expected
    else:
        points = _renewal(1.0, 1.0, np.inf if requests is None else requests, expected, draw)
    fractions = points / (rate * length)  # of the integrated factor over a window of length 1
    if process == "steps":
        knots = np.linspace(0.0, 1.0, len(factors) + 1)
        return np.interp(fractions, np.concatenate([[0.0], np.cumsum(factors) / len(factors)]), knots) * length
    first, last = map(float, factors)
    # first u + (last - first) u^2 / 2 = fraction, in the form that is stable when the slope is nearly 0.
    return length * 2.0 * fractions / (first + np.sqrt(first**2 + 2.0 * (last - first) * fractions))
