"""What server, GPUs and node were doing in a cell's window: means of what the recorders sampled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servegauge.contract.columns import column
from servegauge.contract.energy import rows_of
from servegauge.contract.metric import Statistic

NS = 1e9
POWER_CAPS = ("sw_power_cap", "hw_power_brake")  # reasons by which the driver lowers clocks for power's sake

PARTS = ("sm_active", "tensor_active", "dram_active")  # of a GPU, as DCGM counts them

COLUMNS = (
    column("requests_running_mean", pa.float64(), "requests being computed, mean over the window", "requests"),
    column("requests_waiting_mean", pa.float64(), "requests admitted but not yet computed, mean", "requests"),
    column("requests_waiting_max", pa.float64(), "the most of them at any sample of the window", "requests"),
    column("kv_usage_mean", pa.float64(), "share of the KV cache in use, mean over the window", "1"),
    column("kv_usage_max", pa.float64(), "the largest share at any sample of the window", "1"),
    column("preemptions", pa.float64(), "requests put back to wait in the window", "requests"),
    column("gpu_utilisation_mean", pa.float64(), "share of the window in which a kernel ran, mean over GPUs", "1"),
    column("gpu_power_capped_share", pa.float64(), "share of samples with a GPU slowed for its power limit", "1"),
    column("gpu_sm_clock_mhz_mean", pa.float64(), "clock of the multiprocessors, mean over the window", "MHz"),
    column("gpu_sm_active_mean", pa.float64(), "share of cycles with work on a multiprocessor (DCGM), mean", "1"),
    column("gpu_tensor_active_mean", pa.float64(), "share of cycles with work on the tensor cores (DCGM), mean", "1"),
    column("gpu_dram_active_mean", pa.float64(), "share of cycles in which GPU memory moved data (DCGM), mean", "1"),
    column("node_busy_mean", pa.float64(), "share of the node's CPU time that was not idle, mean over the window", "1"),
    column("gpu_memory_max_bytes", pa.float64(), "the most memory in use, summed over the launch's GPUs", "bytes"),
    column("server_memory_max_bytes", pa.float64(), "the most main memory that the servers held (RSS)", "bytes"),
)  # fmt: skip
"""Columns of CELLS; null where nothing recorded it. Of several server instances: counts are summed, shares averaged."""

MEMORY = (
    Statistic("gpu_memory_max", "GPU memory", "bytes", "gpu_memory_max_bytes", heading="GPU memory"),
    Statistic("server_memory_max", "Servers' memory", "bytes", "server_memory_max_bytes", heading="Servers' memory"),
)
"""What of them is compared, in a study whose `compare.primary` or `expects` names it."""


def during(
    window_s: float | None,
    server: pa.Table | None,
    gpu: pa.Table | None,
    node: pa.Table | None,
    gpus: Sequence[str] = (),
) -> dict[str, float | None]:
    """The values of COLUMNS for a cell: its rows of `server_metrics`, `gpu` and `node`, None where there are none.

    `gpus`: those of the launch, numbers or UUIDs; the samples may have others, with the memory of others.
    """
    found: dict[str, float | None] = dict.fromkeys(field.name for field in COLUMNS)
    if not window_s:
        return found
    if server is not None and server.num_rows:
        found |= _server(server, window_s * NS)
    if gpu is not None and (inside := _inside(gpu, window_s * NS)).num_rows:
        found["gpu_utilisation_mean"] = _mean(inside, "utilisation")
        found["gpu_sm_clock_mhz_mean"] = _mean(inside, "sm_clock_mhz")
        found["gpu_memory_max_bytes"] = _most_memory(inside, gpus)
        for name in PARTS:
            if name in inside.column_names:  # samples of older versions have none
                found[f"gpu_{name}_mean"] = _mean(inside, name)
        reasons = [text for text in inside["throttle_reasons"].to_pylist() if text is not None]
        if reasons:
            capped = [any(cap in text.split(",") for cap in POWER_CAPS) for text in reasons]
            found["gpu_power_capped_share"] = sum(capped) / len(capped)
    if node is not None and (inside := _inside(node, window_s * NS)).num_rows:
        found["node_busy_mean"] = _mean(inside, "busy_share")
        if "server_memory_bytes" in inside.column_names:
            most = pc.max(inside["server_memory_bytes"]).as_py()
            found["server_memory_max_bytes"] = None if most is None else float(most)
    return found


def _inside(table: pa.Table, window_ns: float) -> pa.Table:
    return table.filter(pc.and_(pc.greater_equal(table["t_ns"], 0), pc.less_equal(table["t_ns"], int(window_ns))))


def _mean(table: pa.Table, name: str) -> float | None:
    value = pc.mean(table[name]).as_py()
    return None if value is None else float(value)


def _most_memory(samples: pa.Table, gpus: Sequence[str]) -> float | None:
    """The sum of the most of each of `gpus`; None where one reports none."""
    most = [pc.max(rows_of(samples, gpu)["memory_used_bytes"]).as_py() for gpu in gpus]
    return None if not most or None in most else float(sum(most))


def _server(server: pa.Table, window_ns: float) -> dict[str, float | None]:
    def of(name: str, combine: Callable[..., Any]) -> np.ndarray:
        """A common metric at each time that all instances were asked: their sum, or mean."""
        rows = server.filter(pc.equal(pc.cast(server["metric"], pa.string()), name))
        inside = _inside(rows, window_ns)
        values = [
            part["value"].drop_null().to_numpy()
            for instance in pc.unique(inside["instance"]).to_pylist()
            if (part := inside.filter(pc.equal(inside["instance"], instance))).num_rows
        ]
        length = min((len(one) for one in values), default=0)
        return combine([one[:length] for one in values], axis=0) if length else np.empty(0)

    running, waiting = of("requests_running", np.sum), of("requests_waiting", np.sum)
    usage, preempted = of("kv_usage", np.mean), of("preemptions", np.sum)
    return {
        "requests_running_mean": float(running.mean()) if len(running) else None,
        "requests_waiting_mean": float(waiting.mean()) if len(waiting) else None,
        "requests_waiting_max": float(waiting.max()) if len(waiting) else None,
        "kv_usage_mean": float(usage.mean()) if len(usage) else None,
        "kv_usage_max": float(usage.max()) if len(usage) else None,
        "preemptions": float(preempted[-1] - preempted[0]) if len(preempted) else None,
    }
