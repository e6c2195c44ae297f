"""Power of the launch's GPUs with the server loaded and nothing to do, beside which the energy of a load is read."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from servegauge.contract import energy
from servegauge.contract.records.launch import Idle
from servegauge.contract.spec import Placement
from servegauge.launch.live import LiveLaunch
from servegauge.launch.recorders.gpu_sample import SAMPLE_HZ, Sampler

SETTLE_S = 2.0  # after the start, whose power is not that of an idle server
MEASURE_S = 3.0
AFTER_S = 1.0  # a sample after the end, from whatever reads twice a second


def idle_power(live: LiveLaunch) -> Idle | None:
    """Measure it; None where the launch has no GPU to read."""
    gpus = sorted({gpu for server in live.servers for gpu in server.context.gpus})
    if not gpus:
        return None
    if any(server.context.nodes > 1 for server in live.servers):
        return Idle(reason="GPUs of other nodes are not sampled")
    sampler = Sampler()
    with tempfile.TemporaryDirectory(dir=live.work) as folder:
        started_ns = time.monotonic_ns()
        sampler.sample(Path(folder) / "gpu.parquet", SAMPLE_HZ, Placement.of(live.platform).load_cpus)
        end = time.monotonic() + SETTLE_S + MEASURE_S + AFTER_S
        while time.monotonic() < end and not live.stop():
            time.sleep(0.1)
        file = sampler.stop(started_ns + int(SETTLE_S * 1e9))
        used = energy.used(pq.read_table(file) if file else None, gpus, MEASURE_S)
    if used is None:
        reason = sampler.report.get("error") or sampler.report.get("gpu_reason")
        return Idle(reason=reason or "the samples of these GPUs do not cover the time")
    return Idle(power_w=used.joules / MEASURE_S, source=used.source, error=used.error, duration_s=MEASURE_S)
