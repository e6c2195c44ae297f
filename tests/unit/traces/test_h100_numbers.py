"""The numbers that were written down of two captures of vLLM on an H100 when they were made, one by one."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegauge.traces import build, phases
from servegauge.traces.capture import Capture
from tests.unit.traces.test_real_captures import CAPTURES, H100, tables

# ms a step: period, the label on the CPU, GPU busy, of that sampling; share, kernels of the label and of sampling
STEPS = {
    "nsys": {
        "prefill": (2, 28.926, 27.824, 8.406, 0.128, 0.291, 483 + 10),
        "mixed": (2, 24.799, 23.530, 12.486, 0.133, 0.503, 483 + 10),
        "decode": (22, 20.123, 19.043, 6.590, 0.129, 0.327, 550.1 + 10),
    },
    "torch": {
        "prefill": (2, 41.298, 39.600, 8.412, None, 0.204, 483 + 10),
        "mixed": (2, 36.386, 34.769, 12.547, None, 0.345, 483 + 10),
        "decode": (22, 30.537, 29.008, 6.605, None, 0.216, 550.1 + 10),
    },
}
SUMS = {
    "nsys": {"kernels": 186_737_772, "memcpy": 135_909, "memset": 54_754, "busy": 186_760_337},
    "torch": {"kernels": 187_208_613, "memcpy": 136_700, "memset": 51_585, "busy": 187_228_936},
}


def capture(profiler: str) -> Capture:
    return build.read([CAPTURES / H100[profiler]])


@pytest.mark.parametrize("profiler", H100)
def test_steps(profiler: str) -> None:
    found = {row["phase"]: row for row in phases.phases(tables(H100[profiler]))}
    steps = tables(H100[profiler])["steps"].to_pandas()
    for phase, (count, period, cpu, busy, sampling, share, kernels) in STEPS[profiler].items():
        row = found[phase]
        assert row["steps"] == count
        assert row["kernels"] == pytest.approx(kernels, abs=0.05)
        assert row["gpu_share"] == pytest.approx(share, abs=5e-4)
        for name, told in (("step_ns", period), ("cpu_ns", cpu), ("gpu_busy_ns", busy)):
            assert row[name] / 1e6 == pytest.approx(told, abs=6e-4), (phase, name)
        mine = steps[steps["phase"] == phase]
        if sampling is not None:
            assert mine["sampling_gpu_ns"].mean() / 1e6 == pytest.approx(sampling, abs=6e-4)
    tokens = steps.groupby("phase", observed=True)[["context_tokens", "generation_tokens"]].sum()
    assert tokens.loc["prefill"].tolist() == [512, 0]
    assert tokens.loc["mixed"].tolist() == [1024, 2]
    assert tokens.loc["decode"].tolist() == [0, 64]
    assert (steps["phase"] == "idle").sum() == 4
    one = ["context_1(256)_generation_0(0)", "context_2(512)_generation_1(1)", *["context_0(0)_generation_3(3)"] * 10]
    one += ["context_0(0)_generation_2(2)"]
    assert [label.removeprefix("execute_") for label in steps["label"] if "(0)_generation_0" not in label] == one * 2


@pytest.mark.parametrize("profiler", H100)
def test_operations(profiler: str) -> None:
    sums, made = SUMS[profiler], tables(H100[profiler])
    copies = made["copies"].to_pandas()
    by_kind = (
        copies.assign(memset=copies["direction"] == "memset").groupby("memset")[["calls", "bytes", "total_ns"]].sum()
    )
    slack = 0 if profiler == "nsys" else 300  # torch writes microseconds with three digits
    assert made["kernels"].to_pandas()["total_ns"].sum() == pytest.approx(sums["kernels"], abs=slack)
    assert by_kind.loc[False].tolist()[:2] == [122, 13_648 + 864]
    assert by_kind.loc[True].tolist()[:2] == [72, 288]
    assert by_kind.loc[False, "total_ns"] == pytest.approx(sums["memcpy"], abs=slack)
    assert by_kind.loc[True, "total_ns"] == pytest.approx(sums["memset"], abs=slack)
    by_direction = copies.groupby("direction", observed=True)["calls"].sum()
    assert (by_direction["HtoD"], by_direction["DtoH"]) == (70, 52)
    (trace,) = made["traces"].to_pylist()
    assert trace["gpu_busy_ns"] == pytest.approx(sums["busy"], abs=slack)
    assert (trace["kernels"], trace["graph_mode"], made["collectives"].num_rows) == (14_294, "none", 0)
    operations, calls = capture(profiler).operations, capture(profiler).calls
    assert len(np.unique(operations.process)) == len(np.unique(operations.device)) == 1
    launched = np.isin(calls.correlation, operations.correlation)
    assert len(np.unique(calls.thread[launched])) == 1, "one CUDA thread"


def test_the_ends_of_the_gpus_work_and_the_launches_of_a_decode_step() -> None:
    operations = capture("nsys").operations
    assert (operations.start.min(), operations.end.max()) == (1_262_450_302, 1_817_750_000)
    calls = tables(H100["nsys"])["launches"].to_pandas()
    calls = calls[calls["call"].isin(["cudaLaunchKernel", "cuLaunchKernelEx", "cudaLaunchKernelExC"])]
    assert calls["calls"].sum() == 14_294
    decode = calls[calls["phase"] == "decode"]
    assert decode["calls"].sum() / 22 == pytest.approx(560, abs=0.5)
    assert decode["total_ns"].sum() / 22 / 1e6 == pytest.approx(3.1, abs=0.05)
    assert decode["total_ns"].sum() / decode["calls"].sum() / 1e3 == pytest.approx(5.5, abs=0.05)
    steps = tables(H100["nsys"])["steps"].to_pandas()
    mine = steps[steps["phase"] == "decode"]
    assert mine["cpu_ns"].sum() / mine["kernels"].sum() / 1e3 == pytest.approx(34, abs=0.5)
    order = np.argsort(operations.start)
    starts, ends = operations.start[order], np.maximum.accumulate(operations.end[order])
    gaps = starts[1:] - ends[:-1]
    within = [
        gaps[(starts[1:] > start) & (starts[1:] <= end)]
        for start, end in zip(mine["gpu_start_ns"], mine["gpu_end_ns"], strict=True)
    ]
    assert np.median(np.concatenate(within)) / 1e3 == pytest.approx(18, abs=2)


def test_gpu_time_is_equal_to_a_quarter_of_a_per_cent_and_torch_costs_the_cpu_half_as_much_again() -> None:
    busy = [tables(name)["traces"].to_pylist()[0]["gpu_busy_ns"] for name in H100.values()]
    assert busy[1] / busy[0] - 1 == pytest.approx(0.0025, abs=1e-4)
    cpu = [{row["phase"]: row["cpu_ns"] for row in phases.phases(tables(name))} for name in H100.values()]
    assert cpu[1]["decode"] / cpu[0]["decode"] == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize(("profiler", "constant_ms", "spread_ms"), [("nsys", 1.4, 10), ("torch", 1.7, 14)])
def test_a_token_waits_for_the_next_step(profiler: str, constant_ms: float, spread_ms: float) -> None:
    """Requests 0 and 3 are alone in the first step of their round; 1, 2, 4 and 5 begin in its second."""
    steps = tables(H100[profiler])["steps"].to_pylist()
    sent: dict[int, int] = {}
    for row in pq.read_table(CAPTURES / f"requests_{profiler}.parquet").to_pylist():
        first = 15 * (row["request"] // 3) + (row["request"] % 3 > 0)
        for step, stamp in enumerate(row["chunk_ns"], first):
            sent[step] = max(sent.get(step, 0), stamp)
    wanted = [*range(12), *range(15, 27)]
    after_next = [sent[i] - steps[i + 1]["start_ns"] - steps[i + 1]["cpu_ns"] for i in wanted]
    after_own = [sent[i] - steps[i]["gpu_end_ns"] for i in wanted]
    assert (max(after_next) - min(after_next)) / 1e6 == pytest.approx(constant_ms, abs=0.06)
    assert (max(after_own) - min(after_own)) / 1e6 > spread_ms - 1


def test_the_first_token_comes_a_step_after_its_last_kernel() -> None:
    rows = pq.read_table(CAPTURES / "requests_nsys.parquet").to_pylist()
    assert rows[0]["first_token_ns"] / 1e6 == pytest.approx(73.1, abs=0.05)
    step = tables(H100["nsys"])["steps"].to_pylist()[0]
    assert (step["gpu_end_ns"] - 1_255e6) / 1e6 == pytest.approx(44, abs=1.5), "by fit, to 1 ms"
    assert (rows[0]["prompt_tokens"], {row["output_tokens"] for row in rows}) == (256, {12})


def test_twelve_tokens_in_eleven_chunks_have_no_tokens_a_chunk() -> None:
    rows = pq.read_table(CAPTURES / "requests_nsys.parquet").to_pylist()
    assert [len(row["chunk_ns"]) for row in rows] == [12, 12, 12, 12, 11, 11]
    assert [row["chunk_tokens"] is None for row in rows] == [False] * 4 + [True] * 2
    assert {row["tokens_source"] for row in rows[4:]} == {"usage"}


def test_the_clocks() -> None:
    assert capture("nsys").epoch_zero_ns == 1_795_694_660_905_219_823
    at = datetime.datetime.fromtimestamp((capture("torch").epoch_zero_ns or 0) / 1e9, datetime.UTC)
    assert at.isoformat(timespec="milliseconds").startswith("2026-11-26T12:03:36.7")


def test_twenty_products_reach_732_teraflops() -> None:
    path = CAPTURES / "small_h100.sqlite.gz"
    made = build.tables("small", build.read([path]))
    product, *others = sorted(made["kernels"].to_pylist(), key=lambda row: -row["total_ns"])
    assert (product["kind"], product["calls"], product["total_ns"]) == ("gemm", 20, 469_450)
    assert product["kernel"].startswith("nvjet")
    assert 20 * 2 * 2048**3 / product["total_ns"] / 1e3 == pytest.approx(732, abs=1)
    assert [row["calls"] for row in others] == [1, 1]
    (copy,) = made["copies"].to_pylist()
    assert (copy["direction"], copy["bytes"], copy["total_ns"]) == ("DtoH", 16_777_216, 9_711_250)
