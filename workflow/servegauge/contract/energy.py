"""What the GPUs of a launch used in a window: from their energy counters, or, without those, from sampled power."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

COUNTER, POWER = "counter", "power"
LEAST_COVERED = 0.95  # of the window, by samples; what is missing at its ends is taken as the mean of the rest
LONGEST_GAP_S = 2.5  # between two samples of power: what happened in a longer one is not known


@dataclass(frozen=True)
class Energy:
    """Joules of all the launch's GPUs in the window, and from what: `counter` or `power`."""

    joules: float
    source: str


def used(samples: pa.Table | None, gpus: Sequence[str], duration_s: float | None) -> Energy | None:
    """The energy of `gpus` (numbers or UUIDs, as the launch was given them) in [0, duration]; None where not known.

    `samples`: rows of GPU_RAW. All GPUs are counted alike: by their counters if each has one that covers the window and
    never falls (a counter falls when the driver is loaded anew), else by the integral of power.
    """
    if samples is None or not gpus or not duration_s or duration_s <= 0:
        return None
    for column, source in (("energy_j", COUNTER), ("power_w", POWER)):
        if column not in samples.column_names:
            continue
        each = [_of_one(_rows(samples, gpu), column, source, duration_s) for gpu in gpus]
        known = [joules for joules in each if joules is not None]
        if len(known) == len(gpus):
            return Energy(sum(known), source)
    return None


def _rows(samples: pa.Table, gpu: str) -> pa.Table:
    if gpu.isdigit():
        return samples.filter(pc.equal(samples["gpu"], int(gpu)))
    return samples.filter(pc.fill_null(pc.equal(pc.cast(samples["uuid"], pa.string()), gpu), False))


def _of_one(rows: pa.Table, column: str, source: str, duration_s: float) -> float | None:
    rows = rows.filter(pc.is_valid(rows[column])).sort_by("t_ns")
    times, values = rows["t_ns"].to_numpy() / 1e9, rows[column].to_numpy()
    if len(times) < 2:
        return None
    first, last = max(0.0, times[0]), min(duration_s, times[-1])
    if last - first < LEAST_COVERED * duration_s:
        return None
    if source == COUNTER:
        if np.any(np.diff(values) < 0):
            return None
        joules = np.interp(last, times, values) - np.interp(first, times, values)
    else:
        inside = times[(times > first) & (times < last)]
        points = np.concatenate(([first], inside, [last]))
        around = times[(times >= times[times <= first].max()) & (times <= times[times >= last].min())]
        if np.max(np.diff(around)) > LONGEST_GAP_S:
            return None
        joules = np.trapezoid(np.interp(points, times, values), points)
    return float(joules) * duration_s / (last - first)
