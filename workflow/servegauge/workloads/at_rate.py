"""A workload whose times are in mean gaps, at one of the rates of a search for the capacity.

Every rate gets the same window: the same prompts in the same order, with the same pattern of arrivals, only faster or
slower. So what differs from rate to rate is the rate. Ramp and tail repeat their own requests as often as it takes.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servegauge.workloads.load_times import spare_requests


def at_rate(workload: pa.Table, window_gaps: float, rate_rps: float, output_tokens: float | None) -> pa.Table:
    """`workload` (the schema of `compile.SCHEMA`, a window of `window_gaps` mean gaps) with its times in seconds.

    The tail lasts until a window is answered at half the rate that was offered: a server that cannot keep up must not
    be seen to recover. `output_tokens`: mean length of an answer.
    """
    phases = workload["phase"]
    spare = spare_requests(rate_rps, output_tokens)
    rows = {name: workload.filter(pc.equal(phases, name)) for name in ("warmup", "ramp", "window", "tail")}
    parts = [
        _timed(rows["warmup"], rows["warmup"]["scheduled_s"].to_numpy() / rate_rps),
        _repeated(rows["ramp"], spare, 0.0, rate_rps),
        _timed(rows["window"], rows["window"]["scheduled_s"].to_numpy() / rate_rps),
        _repeated(rows["tail"], spare + rows["window"].num_rows, window_gaps, rate_rps),
    ]
    table = pa.concat_tables(parts)
    number = table.column_names.index("request")
    return table.set_column(number, workload.schema.field(number), pa.array(range(table.num_rows), pa.int32()))


def _repeated(rows: pa.Table, count: int, begin_gaps: float, rate_rps: float) -> pa.Table:
    """`count` of the rows, over and over, one round after the other; their times begin at `begin_gaps`."""
    if not rows.num_rows:
        return rows
    gaps = rows["scheduled_s"].to_numpy() - begin_gaps
    rounds = math.ceil(count / rows.num_rows)
    length = max(float(gaps[-1]), rows.num_rows - 1) + 1.0  # a round, and the gap to the next one
    times = (np.arange(rounds)[:, None] * length + gaps[None, :]).ravel()[:count]
    taken = rows.take(pa.array(np.arange(count) % rows.num_rows))
    return _timed(taken, (begin_gaps + times) / rate_rps)


def _timed(rows: pa.Table, seconds: np.ndarray) -> pa.Table:
    place = rows.column_names.index("scheduled_s")
    return rows.set_column(place, rows.schema.field(place), pa.array(seconds, pa.float64()))
