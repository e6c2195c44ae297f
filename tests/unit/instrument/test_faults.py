"""Each fault of the paced server ends in its flag, with its reason, on the way that a cell goes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegauge.contract.flags import cell_flags
from servegauge.contract.records import base as records
from servegauge.contract.spec import Cell, Launch, Layout, Load, Workload
from servegauge.frameworks import framework
from servegauge.frameworks.base import Reset
from servegauge.instrument.coordinator import run_load
from servegauge.instrument.job import LoadJob
from servegauge.launch.server import HttpClient
from tests.unit.instrument_helpers import paced, workload

FAST = ("--first-s", "0.005", "--gap-s", "0.001")
LAUNCH = Launch("paced", {"name": "m"}, {"name": "p"}, Layout())


def cell(load: Load) -> Cell:
    return Cell("l", "l-r1", {"name": "p"}, load, Workload({"name": "p"}, {"name": "m"}, {}), load.protocol)


def flagged(tmp_path: Path, arguments: tuple[str, ...], load: Load, path: Path, twice: bool = False) -> dict[str, dict]:
    with paced(tmp_path, *FAST, *arguments) as server:
        job = LoadJob(
            [server.url], str(path), str(tmp_path / "out"), "m", replace(load, timeout_s=5.0), phase="window",
        )  # fmt: skip
        if twice:
            run_load(job)
        reset: Reset = (
            framework("paced").reset_cache(HttpClient(server.url, ""), LAUNCH) if not twice else Reset(True, "")
        )
        result = run_load(job)
    record = {"instrument": result.instrument, "cache_reset": asdict(reset)}
    record["window"] = records.plain(result.window)
    found = cell_flags(pq.read_table(result.requests), cell(load), record)
    return {flag["flag"]: flag for flag in found if flag["flag"] not in STARVED}


# Raised by rights, and by chance, where something else has the CPU for a few tokens' time.
STARVED = {"generator_limited", "coalesced", "not_streamed", "workload_exhausted"}
SMALL = {"p99_not_supported", "p95_not_supported"}


@pytest.mark.parametrize(
    ("arguments", "flag", "said"),
    [
        ((), None, ""),
        (("--fault", "http_error:every=3"), "errors", "http_error"),
        (("--fault", "cut:every=3,after=2"), "errors", "truncated"),
        (("--fault", "garbage:every=3,after=2"), "errors", "invalid"),
        (("--fault", "zero_tokens:every=3"), "zero_tokens", "held no token"),
        (("--fault", "short:every=3,after=2"), "output_length", "longer or shorter"),
        (("--fault", "refused_reset"), "reset_refused", "success"),
    ],
)
def test_a_fault_is_flagged_and_nothing_else_is(tmp_path, arguments, flag, said):
    found = flagged(tmp_path, arguments, Load(concurrency=2), workload(tmp_path, window=9))
    extra = {"errors"} if flag == "zero_tokens" else set()
    assert set(found) == SMALL | ({flag} if flag else set()) | extra
    if flag:
        assert said in found[flag]["detail"]


def test_a_cache_that_was_not_reset_is_flagged(tmp_path):
    path = workload(tmp_path, window=9)
    assert "cache_warm" in flagged(tmp_path, ("--prefix-cache",), Load(concurrency=2), path, twice=True)
    assert "cache_warm" not in flagged(tmp_path, ("--prefix-cache",), Load(concurrency=2), path)


def test_a_server_that_cannot_keep_up_is_flagged(tmp_path):
    # Each answer takes 50 ms, one at a time; requests come each 10 ms.
    path = workload(tmp_path, window=60, scheduled_s=list(np.arange(60) * 0.01))
    load = Load(rate_rps=100.0, requests=60, arrival={"process": "constant"})
    arguments = ("--slots", "1", "--first-s", "0.05")
    assert "saturated" in flagged(tmp_path, arguments, load, path)
    assert "saturated" not in flagged(tmp_path, (), load, path)
