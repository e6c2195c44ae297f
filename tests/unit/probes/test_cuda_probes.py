"""Every CUDA path of the probes on a made-up GPU whose kernels, clock and dispatch are known (`pretend_torch.py`)."""

from __future__ import annotations

import importlib.util
import itertools
import json
import statistics
import sys
from copy import copy
from types import SimpleNamespace

import numpy as np
import pytest

from servegauge.probes import registry
from servegauge.probes.harness import cuda, numeric, stats
from servegauge.probes.harness.base import Context, Skip, Wrong, run
from servegauge.probes.harness.stats import QUICK
from servegauge.probes.suite import attention, cuda_dispatch, cuda_memcpy, gemm, model_gemm
from tests.unit.probes import pretend_torch
from tests.unit.probes.pretend_torch import FULL_MHZ, Device, Nvml

PLATFORM = {"name": "gpu", "gpus_per_node": 1}
SLOW = {"tflops": 1e-3, "gb_s": 1.0, "l2_gb_s": 50.0, "bus_gb_s": 0.1}  # so that work of a test's size takes its time
TINY = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 256, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.fixture
def gpu(monkeypatch):
    """Put a device in torch's place; returns the module. `gpu(device)`."""

    def install(device: Device, nvml: Nvml | None = None):
        torch = pretend_torch.make(device)
        monkeypatch.setitem(sys.modules, "torch", torch)
        for module in (numeric, attention):
            monkeypatch.setattr(module, "has_torch", lambda: True)
        for module in (stats, cuda, cuda_memcpy, cuda_dispatch):
            monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=device.perf_counter))
        monkeypatch.setattr(cuda, "_clocks", {0: cuda.SmClock(torch, nvml or Nvml(device))})
        return torch

    return install


def rows_of(name: str, size: str = "test", **more) -> list:
    """Rows of a probe; of those that have CPU cases too, whose clock is a real one, the GPU's alone."""
    own = {"memcpy": cuda_memcpy.cuda_cases, "dispatch": cuda_dispatch.cuda_cases}.get(name)
    probe = copy(registry()[name])
    if own:
        probe.cases = own
    return list(run(probe, Context(PLATFORM, size=size, **more)))


@pytest.fixture
def models(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    return [{"name": "tiny", "source": str(tmp_path), "tp": [1]}]


@pytest.mark.parametrize("dispatch_us", [1, 18, 400])
def test_a_kernel_shorter_than_its_dispatch_is_measured_as_long_as_it_is(gpu, dispatch_us):
    device = Device(dispatch_s=dispatch_us * 1e-6)
    torch = gpu(device)
    seconds, detail = cuda.cuda_timed(torch, lambda i: device.launch("product", 5e-6), QUICK)
    assert statistics.median(seconds) == pytest.approx(6e-6, rel=0.02), "the kernel and what lies between two of them"
    assert detail["calls_per_sample"] > 10


def test_a_call_that_waits_for_the_gpu_has_no_time_of_its_own(gpu):
    device = Device()
    torch = gpu(device)

    def product(i: int) -> None:
        device.launch("product", 5e-6)
        device.wait()

    with pytest.raises(Wrong, match="could not be queued"):
        cuda.cuda_timed(torch, product, QUICK)


def test_samples_begin_when_the_clock_has_risen_and_each_has_its_own(gpu):
    device = Device()
    torch = gpu(device)
    seconds, detail = cuda.cuda_timed(torch, lambda i: device.launch("product", 1e-3), QUICK)
    assert detail["sm_clock_mhz"] == [FULL_MHZ] * len(seconds)
    assert detail["clock_moved"] == []
    assert detail["warmed_s"] >= cuda.WARM_S[0]


def test_a_sample_with_another_clock_is_marked(gpu):
    torch = gpu(Device())
    log = cuda.ClockLog(torch)
    log.readings = [345.0, 1980.0, 1980.0, 1755.0, 1975.0]
    assert log.detail(4) == {"sm_clock_mhz": [1980.0, 1980.0, 1755.0, 1975.0], "clock_moved": [2]}


def test_without_a_clock_the_reason_is_nvmls(gpu):
    device = Device(rise_s=0.0)
    torch = gpu(device, Nvml(device, status=3))
    _, detail = cuda.cuda_timed(torch, lambda i: device.launch("product", 1e-3), QUICK)
    assert detail["sm_clock_mhz"] is None
    assert detail["clock_moved"] is None
    assert detail["sm_clock_reason"] == "nvmlDeviceGetClockInfo: Not Supported"
    assert detail["warmed_s"] >= cuda.WARM_BLIND_S


def test_no_library_no_uuid_and_another_gpu_are_reasons(gpu, monkeypatch):
    torch = gpu(Device())

    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)
    assert "cannot be loaded: libnvidia-ml.so.1" in cuda.SmClock(torch).reason
    properties = torch.cuda.get_device_properties(0)
    properties.uuid = "0-2"
    assert cuda.SmClock(torch, Nvml(Device())).reason == "nvmlDeviceGetHandleByUUID: Not Found"
    del properties.uuid
    assert "UUID" in cuda.SmClock(torch, Nvml(Device())).reason


@pytest.mark.parametrize("size", ["quick", "full"])
def test_sizes_are_a_gpus_whatever_the_studys_size(gpu, size):
    gpu(Device())
    shapes = {"gemm": set(), "gemv": set()}
    for case in registry()["gemm"].cases(Context(PLATFORM, size=size)):
        if "shape" in case.variant:
            shapes[case.variant["operation"]].add(int(case.variant["shape"].rpartition("x")[2]))
    assert len([n for n in shapes["gemm"] if n >= 4096]) >= 2
    assert len([n for n in shapes["gemv"] if n >= 8192]) >= 2
    assert min(model_gemm.peak_sizes(Context(PLATFORM, size=size), True)) >= 2048


def test_a_square_product_that_takes_as_long_at_every_size_is_no_peak():
    assert stats.no_plateau([256**3, 512**3, 1024**3], [18.2e-6, 18.3e-6, 19.3e-6]) == (
        "time does not grow with work: 8 times the work took 1.05 times as long; no peak"
    )
    assert stats.no_plateau([4096**3, 8192**3], [184e-6, 1378e-6]) is None
    assert stats.no_plateau([4096**3], [184e-6]) == "one size alone cannot show that time grows with work"


def test_a_peak_is_the_devices_where_time_grows_with_work(gpu):
    gpu(Device(**SLOW, launch_s=0.0))
    rows = rows_of("gemm")
    assert [row.reason for row in rows if row.status == "failed"] == []
    peaks = {(row.metric, row.variant["dtype"]): row for row in rows if row.metric.startswith("peak")}
    assert peaks["peak_tflops", "bf16"].value == pytest.approx(1e-3, rel=0.01)
    assert peaks["peak_tflops", "fp8"].detail["size"] in (64, 128)
    assert peaks["peak_gb_s", "fp32"].status == "ok"
    assert len(peaks["peak_tflops", "bf16"].detail["sm_clock_mhz"]) == len(peaks["peak_tflops", "bf16"].samples)


def test_without_growth_there_is_a_row_without_a_peak_and_no_per_cent_of_it(gpu, monkeypatch, models):
    gpu(Device(launch_s=1e-3))
    peaks = [row for row in rows_of("gemm") if row.metric.startswith("peak")]
    assert peaks
    assert {row.status for row in peaks} == {"skipped"}
    assert all("time does not grow with work" in row.reason and row.value is None for row in peaks)
    monkeypatch.setattr(model_gemm, "peak_sizes", lambda context, gpu: (64, 128))
    rows = rows_of("model_gemm", models=models)
    percent = [row for row in rows if row.metric == "peak_percent"]
    assert {row.status for row in percent} == {"skipped"}
    assert "time does not grow" in percent[0].reason
    assert {row.status for row in rows if row.metric == "time_us"} == {"ok"}


def test_more_than_the_peak_is_a_failed_row_and_the_time_beside_it_stands(gpu, monkeypatch, models):
    gpu(Device(**SLOW, launch_s=0.0))
    monkeypatch.setattr(model_gemm, "measure_peak", lambda *given: model_gemm.Peak(1e-6))
    rows = rows_of("model_gemm", models=models)
    percent = [row for row in rows if row.metric == "peak_percent"]
    assert {row.status for row in percent} == {"failed"}
    assert all(row.value is None and list(row.samples) == [] for row in percent)
    assert "% of what square products reach (1e-06 TFLOP/s): that is not the peak" in percent[0].reason
    assert {row.status for row in rows if row.metric in ("time_us", "tflops")} == {"ok"}


def test_a_peak_that_was_low_is_measured_again_before_a_product_is_refused(gpu, monkeypatch, models):
    gpu(Device(**SLOW, launch_s=0.0))
    answers = iter([model_gemm.Peak(1e-6)] + [model_gemm.Peak(1.1e-3)] * 50)
    monkeypatch.setattr(model_gemm, "measure_peak", lambda *given: next(answers))
    percent = [row for row in rows_of("model_gemm", models=models) if row.metric == "peak_percent"]
    assert {row.status for row in percent} == {"ok"}
    assert max(row.value for row in percent) <= 100


def test_the_crossovers_of_a_matrix_follow_from_its_products() -> None:
    taken = {
        1: [1.0, 1.2],
        2: [2.4],
        4: [1.5],
        256: [60.0],
        512: [600.0],
    }  # seconds; 512 are slow again, and do not count
    rows, ridge = model_gemm.crossovers(taken, 1e12, {"bf16": model_gemm.Peak(100.0)}, "bf16")
    assert list(rows.samples) == [2.0, 2.0]
    assert list(ridge.samples) == pytest.approx([100.0, 120.0])
    rows, ridge = model_gemm.crossovers(taken, 1e12, {"bf16": model_gemm.Peak(reason="none")}, "bf16")
    assert ridge.reason == "none"
    with pytest.raises(Skip, match="no crossover"):
        model_gemm.crossovers({2: [1.0], 4: [1.0]}, 1e12, {}, "bf16")


def test_inputs_that_stay_in_the_l2_give_no_bandwidth(gpu, monkeypatch, models):
    gpu(Device(**SLOW))
    monkeypatch.setattr(numeric, "MOST_SETS", 2)
    rows = [row for row in rows_of("model_gemm", models=models) if row.metric == "bandwidth_gb_s"]
    assert rows
    assert {row.status for row in rows} == {"skipped"}
    assert "lie within twice the L2" in rows[0].reason


def test_a_vector_times_a_matrix_that_stays_in_the_l2_gives_no_bandwidth(gpu, monkeypatch):
    gpu(Device(**SLOW))
    monkeypatch.setattr(numeric, "MOST_SETS", 2)
    rows = [row for row in rows_of("gemm") if row.variant["operation"] == "gemv"]
    assert {row.status for row in rows} == {"skipped"}
    assert all("lie within twice the L2" in row.reason and row.value is None for row in rows)


def test_copies_of_any_size_are_the_memorys_not_the_l2s(gpu, monkeypatch):
    gpu(Device(**SLOW, launch_s=0.0, rise_s=0.0))
    rows = {(row.variant.get("direction"), row.variant.get("memory")): row for row in rows_of("memcpy")}
    assert rows["device-to-device", None].value == pytest.approx(1.0, rel=0.02)
    for direction in ("host-to-device", "device-to-host"):
        assert rows[direction, "pinned"].value is not None
    wide = cuda_memcpy._host(sys.modules["torch"], 1 << 16, "host-to-device", True, QUICK)
    assert statistics.median(wide.samples) == pytest.approx(0.1, rel=0.02), "the bus's, not the call's"
    assert len(wide.detail["sm_clock_mhz"]) == len(wide.samples)
    assert rows["peer-to-peer", None].status == "ok"


def test_a_copy_that_leaves_a_buffer_out_is_wrong(gpu, monkeypatch):
    torch = gpu(Device(**SLOW))
    monkeypatch.setattr(pretend_torch.Tensor, "copy_", lambda self, source, non_blocking=False: self)
    with pytest.raises(Wrong, match="device-to-device: the copy differs"):
        cuda_memcpy._inside(torch, 1 << 16, QUICK)


def test_dispatch_is_the_cpus_number_and_knows_its_clock(gpu):
    gpu(Device(dispatch_s=18e-6))
    rows = {row.variant["operation"]: row for row in rows_of("dispatch") if row.variant.get("device") == "cuda"}
    assert [row.reason for row in rows.values() if row.status != "ok"] == []
    assert rows["kernel launch"].value == pytest.approx(18, rel=0.02)
    assert rows["graph launch"].value == pytest.approx(18, rel=0.02)
    assert rows["graph launch"].detail["kernels"] == cuda_dispatch.GRAPH_KERNELS
    assert rows["kernel launch"].detail["sm_clock_mhz"][0] == FULL_MHZ


def test_samples_in_two_heaps_are_not_called_reached():
    assert stats.two_modes([17.0] * 30 + [170.0, 340.0, 200.0, 180.0])
    assert not stats.two_modes([17.0 + i / 10 for i in range(30)] + [170.0]), "one slow sample is no second heap"
    values = iter(([17.0] * 8 + [170.0] * 4) * 100)
    assert len(stats.repeat(lambda: next(values), stats.Effort(time_limit_s=5, most=100, warmup=0))) == 100


# -- attention ---------------------------------------------------------------------------------------------------------


def exact(queries, keys, values, causal):
    """Attention of (tokens, heads, size) each."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = (np.repeat(np.asarray(part), group, axis=1) for part in (keys, values))
    scores = np.einsum("qhd,khd->hqk", np.asarray(queries), keys) / queries.shape[-1] ** 0.5
    if causal:
        scores = scores + np.triu(np.full(scores.shape[-2:], -np.inf), 1)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), values)


@pytest.fixture
def kernels(monkeypatch):
    """FlashInfer and vLLM's flash attention, made up; what they were called with. `versions`: what the build has."""
    calls, versions = [], {2, 3}
    monkeypatch.setattr(cuda, "WARM_S", (0.01, 0.1))  # numpy's attention is slow

    def wrap(array):
        made = array.astype(np.float32).view(pretend_torch.Tensor)
        made.gpu, made.place = sys.modules["torch"].zeros(1, device="cuda").gpu, "cuda"
        made.charge("attention", 0.0, made)
        return made

    def decode(queries, keys, values, table):
        rows = []
        for index, blocks in enumerate(np.asarray(table)):
            flat = [np.asarray(part)[blocks].reshape(-1, *part.shape[2:]) for part in (keys, values)]
            rows.append(exact(queries[index : index + 1], *flat, causal=False)[0])
        return wrap(np.stack(rows))

    def varlen(q, k, v, max_seqlen_q, cu_seqlens_q, max_seqlen_k, causal, fa_version, **more):
        prompt = "block_table" not in more and max_seqlen_q == max_seqlen_k
        calls.append(("vllm", fa_version, "prefill" if prompt else "decode"))
        if "block_table" in more:
            assert list(more["seqused_k"]) == [max_seqlen_k] * len(q)
            return decode(q, k, v, more["block_table"])
        if not prompt:  # caches in one piece, one after the other
            starts = np.asarray(more["cu_seqlens_k"])
            pairs = itertools.pairwise(starts)
            rows = [exact(q[i : i + 1], k[a:b], v[a:b], causal=False)[0] for i, (a, b) in enumerate(pairs)]
            return wrap(np.stack(rows))
        assert list(cu_seqlens_q) == list(more["cu_seqlens_k"]) == [0, len(q)]
        return wrap(exact(q, k, v, causal))

    class Wrapper:
        def __init__(self, work, layout):
            assert layout == "NHD"

        def plan(self, bounds, indices, last, heads, kv_heads, size, block, q_data_type, kv_data_type):
            self.table = np.asarray(indices).reshape(len(bounds) - 1, -1)
            assert list(bounds) == [i * self.table.shape[1] for i in range(len(bounds))]

        def run(self, queries, cache):
            calls.append(("flashinfer", None, "decode"))
            return decode(queries, *cache, self.table)

    def single(queries, keys, values, causal):
        calls.append(("flashinfer", None, "prefill"))
        return wrap(exact(queries, keys, values, causal))

    modules = {
        "flashinfer": SimpleNamespace(
            BatchDecodeWithPagedKVCacheWrapper=Wrapper, single_prefill_with_kv_cache=single
        ),
        "vllm.vllm_flash_attn": SimpleNamespace(flash_attn_varlen_func=varlen),
        "vllm.vllm_flash_attn.flash_attn_interface": SimpleNamespace(
            is_fa_version_supported=lambda version: version in versions
        ),
        "vllm": SimpleNamespace(),
    }  # fmt: skip
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True if name in modules else found(name))
    return SimpleNamespace(calls=calls, versions=versions, modules=modules)


@pytest.mark.parametrize(
    ("capability", "has", "version"), [((9, 0), {2, 3}, 3), ((8, 0), {2, 3}, 2), ((9, 0), {2}, 2), ((10, 0), {2, 4}, 4)]
)
def test_vllms_kernel_is_the_version_that_its_server_takes(gpu, kernels, capability, has, version):
    torch = gpu(Device(capability=capability))
    kernels.versions.clear()
    kernels.versions.update(has)
    assert attention.kernels(torch) == ["torch", "flashinfer", f"vllm fa{version}"]


def test_a_build_that_refuses_an_unknown_version_gets_the_second(gpu, kernels):
    def refuse(version):
        raise AssertionError(f"Unsupported FA version: {version}")

    kernels.modules["vllm.vllm_flash_attn.flash_attn_interface"].is_fa_version_supported = refuse
    assert attention.fa_version(gpu(Device(capability=(10, 0)))) == 2


def test_attention_runs_the_servers_kernels_for_decode_and_prefill(gpu, kernels, models):
    gpu(Device(**SLOW, l2_bytes=1 << 17))
    rows = rows_of("attention", models=models)
    good = {(row.variant["backend"], row.variant["operation"]) for row in rows if row.status == "ok"}
    both = {(k, o) for k in ("torch", "flashinfer", "vllm fa3") for o in ("decode", "prefill")}
    assert good == both | {(k, attention.CONTIGUOUS) for k in ("torch", "vllm fa3")}
    assert [row.reason for row in rows if row.status == "failed"] == []
    assert {(name, version) for name, version, _ in kernels.calls} == {("flashinfer", None), ("vllm", 3)}
    refused = [row for row in rows if row.status == "skipped"]
    assert all("multiple of 16" in row.reason for row in refused), "vLLM's, with blocks of 4"
    assert all(row.detail["caches"] >= 1 for row in rows if row.metric == "bandwidth_gb_s" and row.status == "ok")


def test_a_cache_within_the_l2_gives_a_time_and_no_bandwidth(gpu, kernels, monkeypatch, models):
    gpu(Device(**SLOW, l2_bytes=1 << 22))
    monkeypatch.setattr(attention, "MOST_SETS", 1)
    rows = [row for row in rows_of("attention", models=models) if row.variant["operation"] == "decode"]
    assert {row.status for row in rows if row.metric == "bandwidth_gb_s"} == {"skipped"}
    assert "ok" in {row.status for row in rows if row.metric == "time_us"}


def test_unified_memory_is_freed_and_a_driver_that_refuses_it_skips(monkeypatch):
    freed = []

    def allocate(place, size, flags):
        place._obj.value = 4096
        return 0 if size.value < 100 else 801

    driver = SimpleNamespace(cuMemAllocManaged=allocate, cuMemFree_v2=lambda place: freed.append(place.value))
    monkeypatch.setattr(attention.ctypes, "CDLL", lambda name: driver)
    made = attention._Unified(64)
    assert made.__cuda_array_interface__["data"] == (4096, False)
    del made
    assert freed == [4096]
    with pytest.raises(Skip, match="cuMemAllocManaged says 801"):
        attention._Unified(200)


def test_a_kernel_that_reads_the_wrong_blocks_is_a_failed_row(gpu, kernels, models):
    gpu(Device(**SLOW, l2_bytes=1 << 17))
    right = kernels.modules["vllm.vllm_flash_attn"].flash_attn_varlen_func

    def wrong(**given):
        if "block_table" in given:
            given["block_table"] = given["block_table"][::-1]
        return right(**given)

    kernels.modules["vllm.vllm_flash_attn"].flash_attn_varlen_func = wrong
    rows = [row for row in rows_of("attention", models=models) if row.variant["backend"] == "vllm fa3"]
    assert {row.status for row in rows if row.variant.get("block_tokens") == 16} == {"failed"}


def test_gemm_is_found_wrong_on_a_gpu_too(gpu, monkeypatch):
    gpu(Device(**SLOW))
    monkeypatch.setattr(numeric.TorchBackend, "matmul", lambda self, left, right, dtype: (left @ right) * 1.02)
    rows = [row for row in rows_of("gemm") if row.metric in gemm.Gemm.units and "peak" not in row.metric]
    assert {row.status for row in rows} == {"failed"}
