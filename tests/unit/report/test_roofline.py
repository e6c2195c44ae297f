"""Operations, bytes, ceilings and utilisations by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib as mpl
import pytest

from servegauge.inputs.model_shape import from_config
from servegauge.report import roofline
from servegauge.report.figure import Material
from servegauge.report.figure_style import STYLE, Drawn
from servegauge.report.figures import figures
from servegauge.report.platform_section import PlatformSection
from servegauge.report.plots.series import Series
from servegauge.report.roofline import Ceiling, Ceilings, Panel, ceilings, decode, prefill, utilisation

# Small enough for paper: 2 layers, hidden 8, 2 heads of 4, 1 KV head, FFN 16, vocabulary 10, 16 bit
SMALL = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 10, "torch_dtype": "bfloat16",
}  # fmt: skip
# QKV 8 x (2 + 2) x 4 = 128, output 8 x 8 = 64, FFN 3 x 8 x 16 = 384: 576 a layer, 1152 in all, and the head's 80
BODY, HEAD, KV = 1152, 80, 2 * 1 * 4 * 2  # KV: numbers a token, both layers
MOE = SMALL | {
    "model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
    "head_dim": 4,
}  # fmt: skip
MLA = SMALL | {
    "model_type": "deepseek_v3", "kv_lora_rank": 6, "qk_rope_head_dim": 2, "qk_nope_head_dim": 4, "v_head_dim": 4,
    "q_lora_rank": None,
}  # fmt: skip


def test_decode_by_hand():
    work = decode(from_config(SMALL), batch=3, context=5)
    attention = 2 * 4 * 2 * 4 * 5  # layers x 4 x heads x head size x context
    assert work.flops == 3 * (2 * (BODY + HEAD) + attention)
    assert work.bytes == 2 * (BODY + HEAD) + 3 * 2 * (5 * KV + KV)
    assert work.intensity == work.flops / work.bytes


def test_prefill_by_hand():
    shape = from_config(SMALL)
    work = prefill(shape, tokens=4)
    attention = 2 * 4 * 2 * 4 * (1 + 2 + 3 + 4)
    assert work.flops == 2 * (4 * BODY + HEAD) + attention, "the head is needed for the last token only"
    assert work.bytes == 2 * (BODY + HEAD) + 2 * (4 * KV + 4 * KV)
    assert prefill(shape, tokens=4, batch=3).flops == 3 * work.flops


def test_a_cached_prefix_is_read_and_not_computed():
    shape = from_config(SMALL)
    work = prefill(shape, tokens=4, cached=3)
    assert work.flops == 2 * (BODY + HEAD) + 2 * 4 * 2 * 4 * 4
    assert work.bytes == 2 * (BODY + HEAD) + 2 * (4 * KV + KV)


def test_a_window_bounds_what_is_looked_at():
    shape = from_config(SMALL | {"sliding_window": 2})
    full, windowed = prefill(from_config(SMALL), tokens=4), prefill(shape, tokens=4)
    assert full.flops - windowed.flops == 2 * 4 * 2 * 4 * ((1 + 2 + 3 + 4) - (1 + 2 + 2 + 2))
    assert decode(shape, 1, 100).flops == decode(shape, 1, 2).flops


def test_a_mixture_reads_the_experts_that_are_touched():
    shape = from_config(MOE)
    expert = 3 * 8 * 16 * 2  # both layers
    rest = 2 * (128 + 64 + 8 * 4) + HEAD  # attention and router
    assert roofline.weights_read(shape, 1) == pytest.approx(rest + expert)
    assert roofline.weights_read(shape, 2) == pytest.approx(rest + expert * 4 * (1 - 0.75**2))
    assert roofline.weights_read(shape, 1000) == pytest.approx(rest + 4 * expert)
    assert decode(shape, 1, 1).flops == 2 * (rest + expert) + 2 * 4 * 2 * 4


def test_latent_attention_multiplies_the_latent_in_decode_and_the_expanded_in_prefill():
    shape = from_config(MLA)
    weights = sum(matrix.weights for matrix in shape.matrices())
    assert decode(shape, 1, 10).flops == 2 * weights + 2 * 2 * 2 * (2 * 6 + 2) * 10
    assert prefill(shape, 1).flops == 2 * weights + 2 * 2 * 2 * (4 + 2 + 4)
    assert decode(shape, 1, 10).bytes == 2 * weights + 2 * 2 * (6 + 2) * 11


def test_a_large_dense_model_decodes_at_about_two_operations_a_byte_per_sequence():
    llama = from_config(SMALL | {
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 128256,
    })  # fmt: skip
    one = decode(llama, 1, 1)
    assert one.flops == pytest.approx(2 * (8_030_261_248 - 128256 * 4096), rel=1e-3)
    assert one.intensity == pytest.approx(1.0, rel=1e-3)
    assert decode(llama, 32, 1).intensity == pytest.approx(32, rel=0.01)


def row(platform: str, probe: str, metric: str, value: float | None, unit: str = "GB/s", **variant: object) -> dict:
    """One row of the probes table."""
    samples = [] if value is None else [value * (1 + 0.001 * index) for index in range(-5, 6)]
    return {
        "platform": platform, "probe": probe, "variant": json.dumps(variant), "metric": metric, "value": value,
        "unit": unit, "samples": samples, "status": "skipped" if value is None else "ok", "started_utc": "2026",
    }  # fmt: skip


ROWS = [
    row("gpu", "gemm", "tflops", 600.0, dtype="bf16", shape="4096x4096x4096", device="cuda"),
    row("gpu", "gemm", "tflops", 700.0, dtype="bf16", shape="8192x8192x8192", device="cuda"),
    row("gpu", "gemm", "tflops", 50.0, dtype="fp32", shape="8192x8192x8192", device="cuda"),
    row("gpu", "gemm", "bandwidth_gb_s", 9000.0, dtype="bf16", shape="1x2048x2048", device="cuda"),
    row("gpu", "gemm", "bandwidth_gb_s", 2900.0, dtype="bf16", shape="1x16384x16384", device="cuda"),
    row("gpu", "memcpy", "bandwidth_gb_s", 3000.0, operation="copy", size_bytes=1 << 30, device="cuda",
        direction="device-to-device"),
    row("gpu", "memcpy", "bandwidth_gb_s", 9999.0, operation="copy", size_bytes=1 << 16, device="cuda",
        direction="device-to-device"),
    row("gpu", "memcpy", "bandwidth_gb_s", 55.0, operation="copy", size_bytes=1 << 30, device="cuda",
        direction="host-to-device"),
    row("gpu", "memcpy", "bandwidth_gb_s", 40000.0, operation="read", size_bytes=1 << 30, device="cpu", threads=64),
    row("cpu", "gemm", "tflops", 0.1, dtype="fp32", shape="1024x1024x1024", threads=1),
]  # fmt: skip
GPU = {"name": "gpu", "gpus_per_node": 2, "gpu": {"bf16_tflops": 989.0, "memory_gb_s": 3350.0}}


def peak(metric: str, value: float | None, dtype: str, size: int | None = None) -> dict:
    """A row of the gemm probe that says what its peak is, or that there is none."""
    found = row("gpu", "gemm", metric, value, operation=f"{metric} row", dtype=dtype, device="cuda")
    return found | {"detail": json.dumps({"size": size})}


def test_what_the_probe_calls_a_peak_is_the_ceiling():
    rows = [*ROWS, peak("peak_tflops", 690.0, "bf16", 4096), peak("peak_tflops", None, "fp32")]
    found = ceilings([*rows, peak("peak_gb_s", 3100.0, "bf16", 16384)], GPU)
    assert found.tflops == {"bf16": Ceiling(690.0, "gemm bf16 4096x4096x4096")}, "fp32 has no peak, so no ceiling"
    assert found.memory_gb_s == Ceiling(3100.0, "gemv bf16 1x16384x16384")


def test_older_results_whose_products_all_took_as_long_have_no_ceiling():
    seconds = {256: 18.2e-6, 512: 18.3e-6, 1024: 19.3e-6}  # of a quick probe on an H100: dispatch, not arithmetic
    rows = [
        row("gpu", "gemm", "tflops", 2 * n**3 / second / 1e12, dtype="bf16", shape=f"{n}x{n}x{n}", device="cuda")
        for n, second in seconds.items()
    ]
    assert ceilings(rows, GPU).tflops == {}
    rows.append(row("gpu", "gemm", "tflops", 732.0, dtype="bf16", shape="4096x4096x4096", device="cuda"))
    rows.append(row("gpu", "gemm", "tflops", 798.0, dtype="bf16", shape="8192x8192x8192", device="cuda"))
    assert ceilings(rows, GPU).tflops["bf16"].value == 798.0


def test_ceilings_are_the_best_square_product_and_the_best_bandwidth_beyond_the_caches():
    found = ceilings(ROWS, GPU)
    assert found.tflops["bf16"] == Ceiling(700.0, "gemm bf16 8192x8192x8192")
    assert found.memory_gb_s == Ceiling(3000.0, f"memcpy copy of {1 << 30} bytes")
    assert (found.vendor_tflops, found.vendor_memory_gb_s) == (989.0, 3350.0)
    assert found.arithmetic("torch.bfloat16").value == 700.0
    assert "fp16 was not measured" in found.arithmetic("float16").source


def test_a_platform_without_a_probe_has_no_ceiling():
    found = ceilings(ROWS, {"name": "cpu"})
    assert found.memory_gb_s is None
    assert found.arithmetic("bfloat16").value == 0.1
    assert ceilings([], GPU).arithmetic("bfloat16") is None


CELL = {
    "tp": 2, "pp": 1, "dp": 1, "instances": 1, "options": "{}", "prompt_tokens_mean": 4.0, "output_tokens_mean": 2.0,
    "achieved_rps": 10.0, "output_tokens_per_s": 40.0, "tpot_p50_s": 0.1, "ttft_p50_s": 0.5,
    "cached_tokens_share": None,
}  # fmt: skip
UNIT = Ceilings("gpu", {"bf16": Ceiling(1e-6, "")}, Ceiling(1e-3, ""), 2e-6, 4e-3)  # 10^6 FLOP/s, 10^6 B/s


def test_mfu_and_mbu_by_hand():
    found = utilisation(CELL, from_config(SMALL), UNIT)
    prompt, token = prefill(from_config(SMALL), 4), decode(from_config(SMALL), 1, 5)
    assert found.mfu == pytest.approx(10 * (prompt.flops + 1 * token.flops) / 2 / 1e6)
    assert found.mfu_vendor == pytest.approx(found.mfu / 2)
    assert found.batch == pytest.approx(40 * 0.1)
    step = decode(from_config(SMALL), 4, 5)
    assert found.mbu == pytest.approx(step.bytes / 0.1 / 2 / 1e6)
    assert found.mbu_vendor == pytest.approx(found.mbu / 4)
    assert found.decode.intensity == step.intensity
    assert found.prefill.tflops == pytest.approx(prompt.flops / 0.5 / 2 / 1e12)
    assert found.reason is None


def test_quantised_weights_are_half_the_bytes():
    plain, packed = (utilisation(CELL | {"options": options}, from_config(SMALL), UNIT) for options in
                     ("{}", '{"quantization": "fp8"}'))  # fmt: skip
    assert plain.decode.gb_s - packed.decode.gb_s == pytest.approx((BODY + HEAD) / 0.1 / 2 / 1e9)


def test_instances_share_the_load_and_not_the_gpus():
    one = utilisation(CELL | {"tp": 1}, from_config(SMALL), UNIT)
    two = utilisation(CELL | {"tp": 1, "instances": 2, "output_tokens_per_s": 80.0}, from_config(SMALL), UNIT)
    assert two.batch == one.batch
    assert two.mbu == pytest.approx(one.mbu)


@pytest.mark.parametrize(
    ("cell", "config", "known", "reason"),
    [
        (CELL, SMALL | {"model_type": "novel"}, UNIT, "'novel' are not known"),
        (CELL | {"prompt_tokens_mean": None}, SMALL, UNIT, "no token counts"),
        (CELL, SMALL, Ceilings("gpu"), "gpu was not probed for gemm and memory bandwidth"),
    ],
)
def test_what_is_not_known_is_null_with_the_reason(cell, config, known, reason):
    found = utilisation(cell, from_config(config), known)
    assert (found.mfu, found.mbu) == (None, None)
    assert reason in found.reason


def test_a_cell_without_tpot_has_no_decode_point():
    found = utilisation(CELL | {"tpot_p50_s": None}, from_config(SMALL), UNIT)
    assert (found.mbu, found.decode) == (None, None)
    assert found.mfu is not None


# -- the figure ------------------------------------------------------------------------------------------------------


def roofline_figure(*panels: Panel) -> Drawn:
    figure = figures()["roofline"]
    with mpl.rc_context(STYLE):
        return figure.draw(Material(None, None, PlatformSection(panels=list(panels)), Series(None, [None])), figure)


def test_a_panel_for_each_platform_with_ceilings_products_and_cells():
    known = ceilings(ROWS, GPU)
    products = [
        row("gpu", "model_gemm", metric, value, model="m", dtype="bf16", operation="qkv", tokens=8)
        for metric, value in (("tflops", 20.0), ("bandwidth_gb_s", 2500.0))
    ]
    used = utilisation(CELL, from_config(SMALL), known)
    figure = roofline_figure(Panel(known, [used], products, "bfloat16"), Panel(replace(known, platform="other")))
    svg = figure.standalone
    assert "gpu: 700 TFLOP/s, 3000 GB/s" in svg
    assert "other: 700 TFLOP/s" in svg
    for words in ("measured", "vendor", "products, bf16", "cells, decode", "cells, prefill", "operations per byte"):
        assert words in svg
    assert figure.inline.startswith("<svg")


def test_without_both_ceilings_the_figure_says_so():
    assert "no platform was probed" in roofline_figure(Panel(Ceilings("gpu"))).standalone
