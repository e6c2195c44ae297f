"""What the GPUs of a launch used in a window: from their energy counters, or, without those, from sampled power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COUNTER, POWER = "counter", "power"
LEAST_COVERED = 0.95  # of the window, by samples; what is missing at its ends is taken as the mean of the rest
FEWEST_FOR_ERROR = 5  # samples of power, to say what fewer would have missed
LONGEST_GAP_S = 2.5  # between two samples of power: what happened in a longer one is not known


@dataclass(frozen=True)
class Energy:
    """Joules of all the launch's GPUs in the window, and from what: `counter` or `power`.

    `error` is what sampling may have missed, as a share of them: of counters, the steps in which the window begins and
    ends (at most so much); of power, how much the integral changes when every second sample is left out. None: not
    known.
    """

    joules: float
    source: str
    error: float | None = None


def used(samples: pa.Table | None, gpus: Sequence[str], duration_s: float | None) -> Energy | None:
    """The energy of `gpus` (numbers or UUIDs, as the launch was given them) in [0, duration]; None where not known.

    `samples`: rows of GPU_RAW. All GPUs are counted alike: by their counters if each has one that covers the window,
    rises and never falls (a counter falls when the driver is loaded anew), else by the integral of power.
    """
    if samples is None or not gpus or not duration_s or duration_s <= 0:
        return None
    for column, source in (("energy_j", COUNTER), ("power_w", POWER)):
        if column not in samples.column_names:
            continue
        each = [_of_one(rows_of(samples, gpu), column, source, duration_s) for gpu in gpus]
        known = [one for one in each if one is not None]
        if len(known) == len(gpus):
            joules = sum(one for one, _ in known)
            errors = [error for _, error in known]
            missed = None if None in errors or not joules else sum(error or 0.0 for error in errors) / joules
            return Energy(joules, source, missed)
    return None


def rows_of(samples: pa.Table, gpu: str) -> pa.Table:
    """The samples of one GPU, by its number or UUID."""
    if gpu.isdigit():
        return samples.filter(pc.equal(samples["gpu"], int(gpu)))
    return samples.filter(pc.fill_null(pc.equal(pc.cast(samples["uuid"], pa.string()), gpu), False))


def _of_one(rows: pa.Table, column: str, source: str, duration_s: float) -> tuple[float, float | None] | None:
    """Joules of one GPU, and what sampling may have missed of them."""
    rows = rows.filter(pc.is_valid(rows[column])).sort_by("t_ns")
    times, values = rows["t_ns"].to_numpy() / 1e9, rows[column].to_numpy()
    if len(times) < 2:
        return None
    first, last = max(0.0, times[0]), min(duration_s, times[-1])
    if last - first < LEAST_COVERED * duration_s:
        return None
    if source == COUNTER:
        if np.any(np.diff(values) < 0) or values[-1] == values[0]:  # one that stands still counts nothing
            return None
        joules = np.interp(last, times, values) - np.interp(first, times, values)
        missed: float | None = float(sum(_step(times, values, end) for end in (first, last)))
    else:
        inside = times[(times > first) & (times < last)]
        points = np.concatenate(([first], inside, [last]))
        around = times[(times >= times[times <= first].max()) & (times <= times[times >= last].min())]
        if np.max(np.diff(around)) > LONGEST_GAP_S:
            return None
        joules = np.trapezoid(np.interp(points, times, values), points)
        thin = np.unique(np.concatenate((points[::2], points[-1:])))
        coarse = np.trapezoid(np.interp(thin, times, values), thin)
        missed = float(abs(joules - coarse)) if len(points) >= FEWEST_FOR_ERROR else None
    scale = duration_s / (last - first)
    return float(joules) * scale, None if missed is None else missed * scale


def _step(times: np.ndarray, values: np.ndarray, moment: float) -> float:
    """How much a counter rose from the sample at or before a moment to the one after it."""
    place = int(np.clip(np.searchsorted(times, moment, side="right"), 1, len(times) - 1))
    return float(values[place] - values[place - 1])
