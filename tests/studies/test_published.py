"""The published figures, written down a second time, as they were published: each is in one study, and no other is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from servegauge.cli.docs import studies
from servegauge.inputs.config_files import names
from servegauge.plan.config import load_study

ROOT = Path(__file__).parents[2]
Number = float | tuple[float, ...]


def pair(bare_metal: float, virtual: float, *deviations: float) -> tuple[Any, ...]:
    """A value, that of the other side, and their deviations."""
    return (virtual, bare_metal, *deviations[::-1])


def seconds(ms: float) -> float:
    return round(ms / 1e3, 9)


# GPU virtualization and LLM inference (HLRS), bare metal first
PRODUCTS = [pair(404.6, 399.9, 0.629, 1.26), pair(1818, 1817, 0.87, 0.96), pair(158.02, 157.45, 0.309, 0.362)]
PENALTIES = (5.4, 1.9), (14.1, 18.2, 16.2), (14.1, 5.8, 13.3)  # % of TTFT: dense, mixture of experts, distilled
PHASES_MS = [(45.3, 51.3), (69.8, 93.8), (9.6, 9.6), (42.8, 47.8), (13.8, 14.1)]  # host: the first three; GPU

# The inference optimisation guide
LLAMA_8B = [  # tokens/s, TTFT, ITL in ms
    (4200, 45, 12), (6800, 32, 8), (4800, 38, 10), (7500, 28, 7), (3600, 52, 14), (120, 200, 35),
]  # fmt: skip
LLAMA_70B = [(2400, 16), (4200, 9), (5800, 6), (3800, 11)]  # tokens/s, ITL in ms
TOKENS_PER_DOLLAR = {800: 960_000, 2800: 840_000, 1500: 1_200_000, 5000: 1_000_000, 600: 1_440_000, 400: 4_800_000}
DOLLARS_AN_HOUR = {800: 3, 2800: 12, 1500: 4.5, 5000: 18, 600: 1.5, 400: 0.3}
KV_BYTES = {"llama-2-70b": 320e3, "llama-2-7b": 800e3, "mixtral-8x7b": 640e3, "llama-3.1-405b": 1.6e6}
GROUPED = {"llama-2-70b": 8, "mistral-7b": 4, "falcon-40b": 64}
WRONG = {"llama-2-7b", "mixtral-8x7b", "llama-3.1-405b", "falcon-40b", "llama-3.1-70b"}

# vLLM with unified memory: us by block size
BLOCKS = (1, 2, 4, 8, 16, 32)
UNIFIED = (1028.550, 1477.255, 1464.686, 238.968, 163.439, 289.493)
NORMAL = (1028.238, 1476.911, 1464.294, 239.627, 163.369, 289.022)
NO_LOOKUP = (816.158, 1297.227, 1043.477, 217.600, 145.849, 326.260)
ORIGINAL = (1037.732, 1489.282, 1468.762, 251.441, 173.120, 298.460)
SHORT_NO_LOOKUP = {1: 207.329, 8: 64.420}  # 1024 tokens
SHORT_ORIGINAL = {8: 68.620}
NO_LOOKUP_32 = (777.439, 731.292, 884.846, 990.562, 638.619, 633.239)  # 1024 tokens, batches of 32 and 16
NO_LOOKUP_16 = (396.988, 368.940, 538.912, 611.939, 354.824, 362.255)
ORIGINAL_16 = (461.034, 856.398, 879.262, 332.499, 321.019, 340.325)


def over(above: tuple[float, ...], below: tuple[float, ...]) -> list[tuple[float, float]]:
    return list(zip(above, below, strict=True))


TIMES_US = [
    *[(one, NORMAL[4]) for one in NORMAL if one != NORMAL[4]],
    *[(one, ORIGINAL_16[4]) for one in ORIGINAL_16 if one != ORIGINAL_16[4]],
    *over(UNIFIED, NORMAL),
    *over(NO_LOOKUP, ORIGINAL),
    (SHORT_NO_LOOKUP[8], SHORT_ORIGINAL[8]),
    *over(NO_LOOKUP_16, ORIGINAL_16),
    *over(NO_LOOKUP_32, NO_LOOKUP_16),
    (NO_LOOKUP[0], SHORT_NO_LOOKUP[1]),
    (NO_LOOKUP[3], SHORT_NO_LOOKUP[8]),
]

PUBLISHED: dict[str, list[Any]] = {
    "hlrs-gemm": PRODUCTS,
    "hlrs-vgpu-ttft": [round(1 + percent / 100, 3) for model in PENALTIES for percent in model],
    "hlrs-phases": [pair(seconds(metal), seconds(virtual)) for metal, virtual in PHASES_MS],
    "hlrs-allreduce": [pair(14, 1.2), 1],  # GB/s; "latency comparable"
    "llmperf-gpu": [1.6, (2, 3), 1.6, (3, 4)],
    "llmperf-radix": [1],  # execution time unchanged
    "llmperf-instances-host": [1, 1, 1],  # nearly no influence
    "llmperf-tp": [(1, 2), (1, 4)],  # more, less than proportional
    "hpc-flat-gemm": [*4 * [(1, 4)], *4 * [1], 156, 295],  # FlashDecoding++; the guide's FLOP/byte of A100 and H100
    "guide-quantization": [one for rate, *ms in LLAMA_8B for one in (rate, *map(seconds, ms))],
    "guide-parallel": [one for rate, itl in LLAMA_70B for one in (rate, seconds(itl))],
    "guide-breakeven": [*TOKENS_PER_DOLLAR, *TOKENS_PER_DOLLAR.values(), 10**10],
    "guide-kv": [*KV_BYTES.values(), *GROUPED.values()],
    "guide-memory": [2 * 35e9],
    "guide-speculative": [(2, 3)],
    "guide-kv-dtype": [2],
    "guide-knee": [9.5, 0.0421, 0.1253, 0.0102, 0.0357],
    "uvm-blocks": [round(above / below, 4) for above, below in TIMES_US],
}

# What was published and is in no study: what is only a figure, or announced; FLOP/byte of an H200, which no study
# has; 70 ms for a step of Llama-2 70B, which is computed; the gigabytes of a server, which takes what
# `memory_fraction` gives it; continuous batching and PagedAttention against servers that nobody runs any more; means
# of the example run (quantiles are compared) and the place of its knee; kernels without an offset into the block;
# fusions and softmax of another engine.


def numbers(entry: dict[str, Any]) -> Any:
    """An entry of `expects` as it is written above."""
    if "ratio" in entry:
        return plain(entry["ratio"])
    base = entry.get("over") or {}
    found = (entry["value"], base.get("value"), entry.get("deviation"), base.get("deviation"))
    return plain(entry["value"]) if found[1:] == (None, None, None) else tuple(one for one in found if one is not None)


def plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def expected(study: str) -> list[dict[str, Any]]:
    return load_study(ROOT, study).get("expects", [])


@pytest.mark.parametrize("study", studies.rebuilt(ROOT))
def test_a_study_has_the_figures_that_were_published_and_no_others(study: str) -> None:
    assert Counter(map(numbers, expected(study))) == Counter(PUBLISHED.get(study, []))


def test_no_other_study_has_published_figures() -> None:
    rest = {*names(ROOT, "studies")} - {*studies.rebuilt(ROOT)}
    assert not {name for name in rest if not name.endswith(studies.CPU) and expected(name)}
    assert {*PUBLISHED} <= {*studies.rebuilt(ROOT)}


def test_what_contradicts_a_models_shape_is_marked_wrong() -> None:
    marked = {one["model"] for study in PUBLISHED for one in expected(study) if one.get("wrong")}
    assert marked == WRONG
    assert {
        one["model"]: one["value"] for one in expected("guide-kv") if one["metric"] == "kv_bytes_per_token"
    } == KV_BYTES


def test_what_is_written_beside_a_ratio_of_kernel_times_is_what_it_is_of() -> None:
    said = [one["about"].rpartition("(")[2].removesuffix(" us)") for one in expected("uvm-blocks")]
    assert said == [f"{above:.3f} / {below:.3f}" for above, below in TIMES_US]


def test_the_guides_tokens_per_dollar_follow_from_its_own_prices() -> None:
    assert {rate: rate * 3600 / DOLLARS_AN_HOUR[rate] for rate in TOKENS_PER_DOLLAR} == pytest.approx(TOKENS_PER_DOLLAR)
