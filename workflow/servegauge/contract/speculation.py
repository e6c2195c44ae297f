"""How many tokens a step of speculative decoding gives, from what a server counts while a window lasts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STEPS, ACCEPTED, AVERAGE = "draft_steps", "accepted_tokens", "acceptance_length"  # common names of a server's metrics


def acceptance_length(samples: pa.Table | None, duration_s: float | None) -> float | None:
    """Tokens of a step in [0, duration]: 1 + accepted / drafts; else the mean of its own average; None: untold.

    `samples`: rows of SERVER_METRICS. Counters are read at both ends of the window, between two samples linearly.
    """
    if samples is None or not duration_s or duration_s <= 0:
        return None
    steps, accepted = (_grown(samples, name, duration_s) for name in (STEPS, ACCEPTED))
    if steps and accepted is not None:
        return 1.0 + accepted / steps
    times, values = _series(samples.filter(pc.equal(samples["metric"], AVERAGE)))
    inside = values[(times >= 0) & (times <= duration_s) & (values > 0)]  # 0: no step yet
    return float(inside.mean()) if len(inside) else None


def _grown(samples: pa.Table, name: str, duration_s: float) -> float | None:
    """What a counter, over all instances and labels, gained in the window; None where it is not there."""
    rows = samples.filter(pc.fill_null(pc.equal(samples["metric"], name), False))
    if not rows.num_rows:
        return None
    keys = [
        f"{instance} {raw} {labels}"
        for instance, raw, labels in zip(
            *(rows[column].to_pylist() for column in ("instance", "raw", "labels")), strict=True
        )
    ]
    total = 0.0
    for key in dict.fromkeys(keys):
        times, values = _series(rows.filter(pa.array([one == key for one in keys])))
        if len(times):
            total += float(np.interp(duration_s, times, values) - np.interp(0.0, times, values))
    return total


def _series(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and values of samples, in order of time, those without a value left out."""
    rows = rows.filter(pc.is_valid(rows["value"])).sort_by("t_ns")
    return rows["t_ns"].to_numpy() / 1e9, rows["value"].to_numpy()
