"""What limits the server: each rule with evidence that fires it, and a real study whose server waited for its CPU."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest

from servegauge.contract import activity, cell_tables, tables
from servegauge.dataset.study_view import Study
from servegauge.report.limits import Evidence, _traced, limit, limits
from servegauge.report.page import render
from servegauge.report.terminal import summarise

SAMPLE = Path(__file__).parents[2] / "samples/gpu-h100-aa"
GPU = Evidence(gpu=True, closed=True, running=16, utilisation=0.95, capped=0.0, mfu=0.2, mbu=0.3, node_busy=0.1)


@pytest.mark.parametrize(
    ("known", "what"),
    [
        (replace(GPU, utilisation=0.4), "CPU"),
        (replace(GPU, mbu=0.7), "memory bandwidth"),
        (replace(GPU, mfu=0.55), "compute"),
        (replace(GPU, capped=0.5), "power"),
        (replace(GPU, capped=0.5, mbu=0.7), "power"),
        (replace(GPU, capped=0.3, utilisation=0.5), "CPU"),  # capped in bursts, and yet it waits
        (replace(GPU, capped=0.3, utilisation=0.0), "CPU"),
        (replace(GPU, kv_usage=0.99, waiting=8.0), "KV cache"),
        (replace(GPU, kv_usage=0.99, preemptions=3.0), "KV cache"),
        (replace(GPU, kv_usage=0.99, waiting=0.0, mbu=0.7), "memory bandwidth"),  # full, and nobody waits
        (replace(GPU, closed=False, running=0.3, utilisation=0.2), "load"),
        (replace(GPU, closed=False, running=5.0, utilisation=0.2), "CPU"),
        (replace(GPU, exposed=0.4, step_busy=0.9), "communication"),
        (replace(GPU, step_busy=0.33, step_cpu=0.95, utilisation=0.95), "CPU"),  # the trace knows better
        (replace(GPU, step_busy=0.95, step_cpu=0.95), None),
        (GPU, None),
        (Evidence(gpu=True, closed=True), None),
        (Evidence(gpu=True, closed=False, utilisation=0.2), None),  # perhaps there was nothing to do
        (Evidence(gpu=False, closed=True, running=4, node_busy=0.97), "CPU"),
        (Evidence(gpu=False, closed=True, running=4, node_busy=0.5), None),
        (Evidence(gpu=False, closed=False, running=0.1, node_busy=0.97), "load"),
    ],
)
def test_what_limits(known: Evidence, what: str | None) -> None:
    found = limit(known)
    assert found.what == what
    assert found.words
    assert (what is None) == found.words.startswith("cannot tell")


def test_what_is_not_known_is_named() -> None:
    assert limit(replace(GPU, mbu=None)).words == (
        "cannot tell from GPU utilisation 95%, MFU 20%, power limit 0%; not known: MBU"
    )


def test_a_preemption_in_a_few_cells_is_not_none_a_cell() -> None:
    assert "0.25 preemptions a cell" in limit(replace(GPU, kv_usage=1.0, preemptions=0.25)).words
    assert "3 preemptions a cell" in limit(replace(GPU, kv_usage=1.0, preemptions=3.2)).words


def test_the_window_alone_counts_and_instances_are_summed() -> None:
    def samples(schema: pa.Schema, rows: list[dict[str, object]]) -> pa.Table:
        return tables.from_rows([{"cell": "c", "launch": "l", **row} for row in rows], schema)

    def told(metric: str, *values: float) -> list[dict[str, object]]:
        """Two instances, at -1, 0, 1 and 11 s; the first and the last are outside a window of 10 s."""
        return [
            {
                "t_ns": int(at * 1e9),
                "instance": instance,
                "metric": metric,
                "raw": metric,
                "value": value * (1 + instance),
            }
            for instance in (0, 1)
            for at, value in zip((-1, 0, 1, 11), values, strict=True)
        ]

    server = samples(
        cell_tables.SERVER_METRICS,
        [
            *told("requests_running", 99, 1, 3, 99),
            *told("requests_waiting", 99, 0, 2, 99),
            *told("kv_usage", 9, 0.2, 0.4, 9),
            *told("preemptions", 0, 1, 4, 99),
        ],
    )
    gpu = samples(
        cell_tables.GPU,
        [
            {
                "t_ns": int(at * 1e9),
                "gpu": gpu,
                "utilisation": value,
                "throttle_reasons": words,
                "source": "nvml",
                "memory_used_bytes": int((at + 10) * (gpu + 1)),
            }
            for gpu in (0, 1)
            for at, value, words in ((-1, 1.0, ""), (1, 0.2, "sw_power_cap"), (2, 0.4, "gpu_idle"), (3, 0.6, None))
        ],
    )
    node = samples(
        cell_tables.NODE,
        [
            {"t_ns": 10**9, "busy_share": 0.5, "server_memory_bytes": 5},
            {"t_ns": 2 * 10**9, "busy_share": None, "server_memory_bytes": 3},
            {"t_ns": 20 * 10**9, "busy_share": 1.0, "server_memory_bytes": 9},
        ],
    )
    found = activity.during(10.0, server, gpu, node, ["0", "1"])
    assert found == pytest.approx(
        {
            "requests_running_mean": 6.0, "requests_waiting_mean": 3.0, "requests_waiting_max": 6.0,
            "kv_usage_mean": 0.45, "kv_usage_max": 0.6, "preemptions": 9.0, "gpu_utilisation_mean": 0.4,
            "gpu_power_capped_share": 0.5, "gpu_sm_clock_mhz_mean": None, "node_busy_mean": 0.5,
            "gpu_sm_active_mean": None, "gpu_tensor_active_mean": None, "gpu_dram_active_mean": None,
            "gpu_memory_max_bytes": 13.0 + 26.0, "server_memory_max_bytes": 5.0,
        }
    )  # fmt: skip
    mine = activity.during(10.0, server, gpu, node, ["1"])
    assert mine["gpu_memory_max_bytes"] == 26.0, "another's GPU holds another's memory"
    assert activity.during(10.0, server, gpu, node, ["1", "7"])["gpu_memory_max_bytes"] is None
    assert set(activity.during(10.0, None, None, None).values()) == {None}
    assert set(activity.during(None, server, gpu, node).values()) == {None}


def test_a_real_study_whose_server_waits_for_its_cpu(tmp_path: Path, no_figures) -> None:
    """The dataset of an older version: nothing is claimed of one GPU under two names, and the CPU is named."""
    shutil.copytree(SAMPLE / "dataset", tmp_path / "dataset")
    found = limits(Study(tmp_path, "gpu-vllm"), [])
    assert len(found) == 6
    assert {one.limit.what for one in found} == {"CPU"}
    assert all(0.3 < (one.known.utilisation or 0) < 0.5 for one in found)
    render(tmp_path, "gpu-vllm", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", page))
    assert text.count("its CPU: a kernel ran in") == 6
    assert not re.search(r'class="(?:card|n) (?:worse|better)', page), "a verdict on one GPU under two names"
    assert "1 launch was measured by several servers" in text
    said, failed = summarise(tmp_path, "gpu-vllm", "profiles/local")
    assert not failed
    assert not re.search(r"slower on|faster on", said)


def test_a_step_that_the_capture_cut_is_no_decode_step() -> None:
    """The shares are those that the section of the traces says: of whole steps. A cut one has no CPU time."""
    rows = [
        {"cut": False, "end_ns": 100, "gpu_busy_ns": 30, "cpu_ns": 90, "comm_exposed_ns": 10},
        {"cut": True, "end_ns": 300, "gpu_busy_ns": 300, "cpu_ns": None, "comm_exposed_ns": None},
    ]
    zero = {"trace": "t", "phase": "decode", "start_ns": 0, "context_tokens": 0, "generation_tokens": 1, "kernels": 1}
    zero |= dict.fromkeys(("launches", "graph_launches"), 1) | dict.fromkeys(("sampling_cpu_ns", "sampling_gpu_ns"))
    steps = pa.Table.from_pylist([{**zero, **row} for row in rows])
    gaps = pa.table({"trace": ["t"], "phase": ["decode"], "cause": ["host_late"], "total_ns": [70]})

    class Traced:
        traces: ClassVar = [{"status": "ok", "trace": "t", "axes": {"rate": 4}, "platform": "p"}]

        def trace_tables(self, trace: str) -> dict[str, pa.Table]:
            return {"steps": steps, "gaps": gaps}

    ((_, shares),) = _traced(Traced()).items()  # type: ignore[arg-type]
    assert shares == {"step_busy": 0.3, "step_cpu": 0.9, "exposed": 0.1}
