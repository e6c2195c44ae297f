"""Unions of intervals, labels, names, quantiles: the parts, each against a plain loop or by hand."""

from __future__ import annotations

import numpy as np
import pytest

from servegauge.traces import breakdown, intervals, labels, names, tally


def plain_union(pairs: list[tuple[int, int]]) -> int:
    return len({at for start, end in pairs for at in range(start, end)})


def test_unions_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        count = int(rng.integers(0, 30))
        group = rng.integers(0, 4, count)
        start = rng.integers(-50, 200, count)
        end = start + rng.integers(0, 40, count)
        found = intervals.unions(group, start, end, 5)
        for index in range(5):
            pairs = [(s, e) for g, s, e in zip(group, start, end, strict=True) if g == index]
            assert found[index] == plain_union(pairs)


def test_a_cover_covers_what_a_loop_says() -> None:
    rng = np.random.default_rng(8)
    start = rng.integers(0, 200, 20)
    end = start + rng.integers(0, 20, 20)
    cover = intervals.Cover(start, end)
    covered = {at for s, e in zip(start, end, strict=True) for at in range(s, e)}
    begin = rng.integers(-20, 240, 100)
    until = begin + rng.integers(0, 50, 100)
    expected = [len(covered & set(range(b, u))) for b, u in zip(begin, until, strict=True)]
    assert cover.covered(begin, until).tolist() == expected


def test_unions_stay_exact_at_times_of_years() -> None:
    start = np.array([1_790_000_000_000_000_000, 1_790_000_000_000_000_001])
    assert intervals.unions(np.array([0, 0]), start, start + 3, 1).tolist() == [4]


def test_parts_that_do_not_add_up_are_an_error() -> None:
    parts = {name: np.array([10]) for name in breakdown.COLUMNS}
    with pytest.raises(ValueError, match="do not add up"):
        breakdown.check(parts | {"span_ns": np.array([40_000])})
    with pytest.raises(ValueError, match="do not add up"):
        breakdown.check(parts | {"span_ns": np.array([40]), "idle_ns": np.array([-1])})


@pytest.mark.parametrize(
    ("name", "phase", "counts"),
    [
        ("execute_context_1(256)_generation_0(0)", "prefill", (1, 256, 0, 0)),
        ("execute_context_2(512)_generation_1(1)", "mixed", (2, 512, 1, 1)),
        ("execute_context_0(0)_generation_64(64)", "decode", (0, 0, 64, 64)),
        ("execute_context_0(0)_generation_0(0)", "idle", (0, 0, 0, 0)),
        ("gpu_model_runner: execute_context_1(256)_generation_0(0)", "prefill", (1, 256, 0, 0)),
        ("execute_context_1(888_788544)_generation_0(0)", "prefill", (1, 888, 0, 0)),
        (
            "execute_6147_context_2(sq6144sk7144sqsq20971520sqsk23019520)_generation_3(sq3sk6144sqsq3sqsk6144)",
            "mixed",
            (2, 6144, 3, 3),
        ),
        ("step[EXTEND bs=15 toks=15360]", "prefill", (15, 15360, 0, 0)),
        ("step[EXTEND bs=2 toks=14721 c_sq=14721 c_sqsq=108745533]", "prefill", (2, 14721, 0, 0)),
        ("step[DECODE bs=32]", "decode", (0, 0, 32, 32)),
        ("step[DECODE bs=64 g_sq=128 g_sqsq=256]", "decode", (0, 0, 64, 128)),
        ("step[MIXED bs=2 c=1 g=1 c_sq=5 c_sk=8 g_sq=1 g_sk=12]", "mixed", (1, 5, 1, 1)),
        ("step[MIXED bs=2]", "mixed", (None, None, None, None)),
        ("step[IDLE bs=0]", "idle", (0, 0, 0, 0)),
        ("prefill[bs=2 tok=14721 ctx=[7803, 6918]]", "prefill", (2, 14721, 0, 0)),
        ("decode[bs=117/128 tok=117 d=117]", "decode", (0, 0, 117, 117)),
    ],
)
def test_labels(name: str, phase: str, counts: tuple) -> None:
    label = labels.parse(name)
    assert label.phase == phase
    found = (label.context_requests, label.context_tokens, label.generation_requests, label.generation_tokens)
    assert found == counts


@pytest.mark.parametrize("name", ["aten::mm", "execute_model", "step", "ProfilerStep#6", "prefill", "sample", ""])
def test_other_names_are_no_labels(name: str) -> None:
    assert labels.parse(name) is None


def test_sampling_ranges_and_markers() -> None:
    assert labels.is_sampling("gpu_model_runner: sample")
    assert labels.is_sampling("Sampler.forward")
    assert not labels.is_sampling("resample_kernel")
    assert not labels.is_sampling("downsampled")
    assert labels.clock_marker("servegauge:clock:123") == 123
    assert labels.clock_marker("clock:123") is None


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("nvjet_sm90_tst_192x8_64x8_2x1_v_bz_TNT", "gemm"),
        ("void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90<int>>>(T1::Params)", "attention"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu>(T1::Params)", "gemm"),
        ("Cijk_Alik_Bljk_BBS_BH_Bias_HAS_SAV_UserArgs_MT256x256x64", "gemm"),
        ("void vllm::rms_norm_kernel<c10::BFloat16, (int)8>(T1 *)", "norm"),
        ("void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*)", "rope"),
        (
            "void at::native::reduce_kernel<(int)512, at::native::ReduceOp<float, at::native::ArgMaxOps<float>>>",
            "sampling",
        ),
        ("fused_moe_kernel", "moe"),
        ("ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "collective"),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*)", "collective"),
        ("void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16>(long)", "attention"),
        (
            "void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIterator)>",
            "copy",
        ),
        ("void at::native::vectorized_elementwise_kernel<(int)4, at::native::FillFunctor<int>>(int)", "other"),
    ],
)
def test_kinds_of_kernels(kernel: str, kind: str) -> None:
    assert names.kernel_kind(kernel) == kind


@pytest.mark.parametrize(
    "call", ["cudaLaunchKernel", "cuLaunchKernelEx", "hipExtModuleLaunchKernel", "cudaGraphLaunch"]
)
def test_calls_that_launch(call: str) -> None:
    assert names.is_launch(call)
    assert names.starts_work(call)


def test_calls_that_do_not_launch() -> None:
    assert not names.is_launch("cudaLaunchHostFunc")
    assert not names.is_launch("cudaMemcpyAsync")
    assert names.starts_work("hipMemcpyWithStream")
    assert names.waits("cudaStreamSynchronize")
    assert not names.waits("cudaStreamWaitEvent")
    assert names.is_graph_launch("hipGraphLaunch")
    assert not names.is_graph_launch("cudaLaunchKernel")
    assert names.plain_call("cudaLaunchKernel_v7000") == "cudaLaunchKernel"
    assert names.plain_call("cudaStreamGetCaptureInfo_v2_v11030") == "cudaStreamGetCaptureInfo_v2"


def test_groups_count_sum_and_take_quantiles() -> None:
    rng = np.random.default_rng(9)
    first, second, values = rng.integers(-1, 3, 500), rng.integers(0, 5, 500), rng.integers(0, 1000, 500)
    found = tally.groups(first, second)
    p50, p99 = found.quantiles(values, (0.5, 0.99))
    common = found.most_frequent(values // 100)
    for index, (a, b) in enumerate(found.keys):
        own = values[(first == a) & (second == b)]
        assert found.calls[index] == len(own)
        assert found.sum(values)[index] == own.sum()
        assert abs(p50[index] - np.quantile(own, 0.5)) <= 0.5
        assert abs(p99[index] - np.quantile(own, 0.99)) <= 0.5
        assert np.bincount(own // 100)[common[index]] == np.bincount(own // 100).max()
