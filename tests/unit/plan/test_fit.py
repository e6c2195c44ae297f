"""Does a model fit: the formula against published sizes, and what happens where it is unknown."""

from __future__ import annotations

from typing import Any

import pytest

from servegauge.contract.spec import Launch, Load
from servegauge.frameworks import framework
from servegauge.plan import documents, fit
from servegauge.plan.expand import expand
from tests.unit.study_tree import LLAMA, Tree

# Published configurations (config.json on the hub) and the parameter counts that their model cards or index files give.
PUBLISHED: dict[str, tuple[dict[str, Any], int, float]] = {
    # name: (config.json, parameters, KiB of KV cache per token in 16 bit)
    "Llama-2-70B": (LLAMA, 68_976_648_192, 320),
    "Llama-3-8B": (
        {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}, 8_030_261_248, 128),
    "Qwen2.5-7B": (
        {"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
         "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "use_sliding_window": False,
         "sliding_window": 131072}, 7_615_616_512, 56),
    "Qwen3-8B": (
        {"model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
         "head_dim": 128, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 151936},
        8_190_735_360, 144),
    "Mixtral-8x7B": (
        {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8},
        46_702_792_704, 128),
    "Qwen3-30B-A3B": (
        {"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
         "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
         "vocab_size": 151936, "num_experts": 128, "decoder_sparse_step": 1, "mlp_only_layers": []},
        30_532_122_624, 96),
    "DeepSeek-V3": (  # without its multi-token prediction layer
        {"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
         "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
         "n_routed_experts": 256, "n_shared_experts": 1, "first_k_dense_replace": 3, "kv_lora_rank": 512,
         "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128},
        671_026_419_200, 68.625),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    config, parameters, kib = PUBLISHED[name]
    known = {**fit.of_config(config), "dtype": "bfloat16"}
    assert known["parameters"] == parameters
    assert fit.kv_bytes(known, 1) == kib * 1024


def test_sliding_windows_bound_the_cache() -> None:
    config = {
        **LLAMA,
        "num_hidden_layers": 4,
        "sliding_window": 100,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    }
    known = {**fit.of_config(config), "dtype": "float16"}
    per_token = 2 * 8 * 128 * 2
    assert fit.kv_bytes(known, 1000) == per_token * (3 * 100 + 1000)
    everywhere = {**fit.of_config({**LLAMA, "sliding_window": 4096}), "dtype": "float16"}
    assert fit.kv_bytes(everywhere, 9999) == 80 * per_token * 4096


def test_layers_without_a_growing_cache_count_nothing() -> None:
    config = {**LLAMA, "num_hidden_layers": 4, "layer_types": ["linear_attention"] * 3 + ["full_attention"]}
    assert [group["layers"] for group in fit.of_config(config)["kv"]] == [1]


def test_types_of_the_cache() -> None:
    known = {**fit.of_config(LLAMA), "dtype": "float16"}
    half = fit.kv_bytes(known, 10)
    assert half is not None
    assert fit.kv_bytes(known, 10, "fp8") == half / 2
    assert fit.kv_bytes(known, 10, "fp8_e5m2") == half / 2
    assert fit.kv_bytes(known, 10, "q8_0") == half / 2 * 34 / 32
    assert fit.kv_bytes({**known, "dtype": "float8"}, 10, "auto") == half, "fp8 weights keep a 16-bit cache by default"


def test_the_language_part_of_a_multimodal_model_counts() -> None:
    assert fit.of_config({"model_type": "mllama", "text_config": LLAMA})["parameters"] == 68_976_648_192


def test_a_family_that_is_built_otherwise_is_not_guessed() -> None:
    known = fit.of_config({**LLAMA, "model_type": "newfangled"})
    assert known["parameters"] is None
    assert known["kv"], "the cache follows from heads and layers all the same"


def test_where_nobody_can_tell_it_is_null_with_a_reason_and_no_skip(tree: Tree) -> None:
    known = fit.shape(tree.root, {"name": "small", "source": "models/small"})
    assert known["weight_bytes"] is None
    assert known["reason"] == "models/small/config.json is not on this machine"
    tree.write("models/small/config.json", "{")
    assert "is not understood" in fit.shape(tree.root, {"name": "small", "source": "models/small"})["reason"]
    plan = expand(tree.study(matrix={"framework": "fast"}))
    assert {planned.skipped for planned in plan.cells} == {None}


def test_a_model_file_may_say_what_is_not_on_this_machine(tree: Tree) -> None:
    known = fit.shape(
        tree.root, {"name": "m", "source": "nowhere", "shape": {"parameters": 10, "kv_values_per_token": 4}}
    )
    assert (known["weight_bytes"], fit.kv_bytes(known, 3), known["reason"]) == (20, 24.0, None)


def test_a_model_file_says_what_config_json_does_not_tell(tree: Tree) -> None:
    """The weights of a hybrid are not described; its cache is."""
    config = {**LLAMA, "model_type": "novel", "layer_types": ["linear_attention", "full_attention"] * 40}
    tree.write("models/large/config.json", config)
    model = {"name": "m", "source": str(tree.root / "models/large")}
    known = fit.shape(tree.root, {**model, "shape": {"weight_bytes": 7, "kv_values_per_token": 1}})
    assert (known["weight_bytes"], fit.kv_bytes(known, 1), known["kv_heads"]) == (7, 40 * 2 * 8 * 128 * 2, 8)
    assert known["reason"] is None
    known = fit.shape(tree.root, {**model, "shape": {"heads": 64}})
    assert "the layers of 'novel' are not known" in known["reason"]


def _launch(tree: Tree, platform: str = "metal", **matrix: Any) -> tuple[Launch, dict[str, Any]]:
    study = tree.study(matrix={"model": "large", "framework": "fast", "platform": platform, **matrix})
    return expand(study).launches[0], study["shapes"]["large"]


def test_weights_and_cache_are_split_over_gpus(tree: Tree) -> None:
    launch, known = _launch(tree, tp=[4])
    weights, cache = fit.per_device(launch, known) or (0, 0)
    assert weights == pytest.approx(2 * 68_976_648_192 / 4)
    assert cache == 4096 * 320 * 1024 / 4
    launch, known = _launch(tree, tp=[2], pp=[2])
    assert fit.per_device(launch, known) == pytest.approx((2 * 68_976_648_192 / 4, 4096 * 320 * 1024 / 4))


def test_heads_are_copied_where_there_are_more_gpus_and_a_latent_is_never_split(tree: Tree) -> None:
    tree.write("config/platforms/metal.yaml", {"description": "x", "gpus_per_node": 16, "gpu": {"memory_gb": 80}})
    launch, known = _launch(tree, tp=[16])
    assert (fit.per_device(launch, known) or (0, 0))[1] == 4096 * 320 * 1024 / 8
    tree.write("models/large/config.json", {**PUBLISHED["DeepSeek-V3"][0], "torch_dtype": "bfloat16"})
    launch, known = _launch(tree, tp=[16])
    assert (fit.per_device(launch, known) or (0, 0))[1] == 4096 * 68.625 * 1024


def test_experts_are_spread_over_expert_parallel_gpus(tree: Tree) -> None:
    tree.write("models/large/config.json", {**PUBLISHED["Qwen3-30B-A3B"][0], "torch_dtype": "bfloat16"})
    launch, known = _launch(tree, dp=[4], ep=[4])
    weights, _ = fit.per_device(launch, known) or (0, 0)
    routed = 48 * 128 * 3 * 2048 * 768
    assert weights == pytest.approx(2 * (30_532_122_624 - routed + routed / 4))


def test_quantization_and_data_type_change_the_weights(tree: Tree) -> None:
    launch, known = _launch(tree, quantization=["fp8"])
    assert fit.weight_bytes(launch, known) == 68_976_648_192
    launch, known = _launch(tree, dtype=["float32"])
    assert fit.weight_bytes(launch, known) == 4 * 68_976_648_192


def test_the_share_of_memory_is_the_studys_then_the_configurations(tree: Tree) -> None:
    launch, known = _launch(tree, tp=[2], memory_fraction=[0.9])
    assert fit.too_large(launch, known) is None
    launch, known = _launch(tree, tp=[2], memory_fraction=[0.8])
    assert "room for 68.7 GB" in (fit.too_large(launch, known) or "")
    launch, known = _launch(tree, tp=[2])
    assert fit.too_large(launch, known, 0.9) is None
    assert "room for 68.7 GB" in (fit.too_large(launch, known, 0.8) or "")


def test_instances_that_share_a_gpu_share_its_memory(tree: Tree) -> None:
    launch, known = _launch(tree, tp=[2], instances=[2], share_gpu=[True])
    assert "room for 38.7 GB" in (fit.too_large(launch, known) or "")
    launch, known = _launch(tree, tp=[2], instances=[2])
    assert fit.too_large(launch, known) is None


def test_main_memory_holds_every_part(tree: Tree) -> None:
    here = {"description": "x", "memory_gb": 130, "frameworks": {"fast": {"device": "cpu"}}}
    tree.write("config/platforms/cpu.yaml", here)
    launch, known = _launch(tree, "cpu", tp=[2])
    assert "in main memory, the platform cpu has room for 130.0 GB" in (fit.too_large(launch, known) or "")
    tree.write("config/platforms/cpu.yaml", {**here, "memory_gb": 150})
    launch, known = _launch(tree, "cpu", tp=[2])
    assert fit.too_large(launch, known) is None


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}


def test_a_quantized_model_is_counted_as_it_is_stored(tree: Tree) -> None:
    """Planned from config.json alone: 70 billion parameters in 4 bits fit on one GPU of 80 GB."""
    tree.write("models/large/config.json", {**LLAMA, "quantization_config": AWQ})
    launch, known = _launch(tree, tp=[1])
    assert known["quantized"] == "awq"
    assert known["weight_bytes"] == pytest.approx(36.7e9, rel=0.01)
    assert fit.too_large(launch, known) is None
    launch, known = _launch(tree, tp=[1], quantization=["awq"], dtype=["float16"])
    assert fit.weight_bytes(launch, known) == known["weight_bytes"], "the data type of activations is not the weights'"


def test_quantized_in_an_unknown_way_is_no_reason_to_skip(tree: Tree) -> None:
    tree.write("models/large/config.json", {**LLAMA, "quantization_config": {"quant_method": "aqlm", "nbits": 2}})
    launch, known = _launch(tree, tp=[1])
    assert known["weight_bytes"] is None
    assert "quantized by 'aqlm'" in known["reason"]
    assert fit.too_large(launch, known) is None
    tree.write("models/large/config.json", LLAMA)
    launch, known = _launch(tree, tp=[1], quantization=["gptq"])
    assert fit.weight_bytes(launch, known) is None, "the study says gptq, config.json does not say of what width"


def test_a_cache_has_the_width_that_the_weights_scales_are_stored_for(tree: Tree) -> None:
    """vLLM and TensorRT-LLM make an 8-bit cache of themselves where the checkpoint has its scales."""
    scheme = {"num_bits": 8, "type": "float", "dynamic": False}
    fp8 = {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 8}}}}
    for quantization in ({**fp8, "kv_cache_scheme": scheme}, {"quant_method": "modelopt", "quant_algo": "FP8",
                         "kv_cache_quant_algo": "FP8"}):  # fmt: skip
        tree.write("models/large/config.json", {**LLAMA, "quantization_config": quantization})
        launch, known = _launch(tree, tp=[8])
        assert fit.per_device(launch, known, 1000)[1] * 8 == 1000 * 80 * 2 * 8 * 128
    tree.write("models/large/config.json", {**LLAMA, "quantization_config": fp8})
    launch, known = _launch(tree, tp=[8])
    assert fit.per_device(launch, known, 1000)[1] * 8 == 2 * 1000 * 80 * 2 * 8 * 128
    tree.write("models/large/config.json", {**LLAMA, "quantization_config": {**fp8, "kv_cache_scheme": scheme}})
    launch, known = _launch(tree, tp=[8], kv_cache_dtype=["bf16"])
    assert fit.per_device(launch, known, 1000)[1] * 8 == 2 * 1000 * 80 * 2 * 8 * 128, "the study says so"


def test_a_quantization_that_is_written_beside_config_json(tree: Tree) -> None:
    tree.write("models/large/config.json", LLAMA)
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    tree.write("models/large/hf_quant_config.json", beside)
    _, known = _launch(tree, tp=[1])
    assert (known["quantized"], known["kv_dtype"]) == ("modelopt", "fp8")
    assert known["weight_bytes"] == pytest.approx(69e9 * 4.5 / 8, rel=0.02)
    without = {"quant_method": "modelopt", "quant_algo": "FP8"}  # and nothing of the cache, which the other file has
    tree.write("models/large/config.json", {**LLAMA, "quantization_config": without})
    _, known = _launch(tree, tp=[1])
    assert known["kv_dtype"] == "fp8"
    assert known["weight_bytes"] == pytest.approx(69e9, rel=0.02)


def test_a_quantization_of_another_kind_than_known_leaves_the_cache_known() -> None:
    for odd in ({"quant_method": "gptq", "bits": 4, "dynamic": ["a"]}, {"quant_method": "awq", "bits": 4, "ignore": 3}):
        known = fit.of_config({**LLAMA, "quantization_config": odd})
        assert known["weight_bytes"] is None
        assert "another kind than known" in known["reason"]
        assert known["kv"]


def test_a_cache_scheme_of_another_kind_is_none() -> None:
    odd = {"quant_method": "fp8", "kv_cache_scheme": {"num_bits": [8]}}
    assert fit.of_config({**LLAMA, "quantization_config": odd})["kv_dtype"] is None


def test_mlx_quantizes_more_than_the_layers_and_is_no_guess(tree: Tree) -> None:
    mlx = {"group_size": 64, "bits": 4}
    tree.write("models/large/config.json", {**LLAMA, "quantization": mlx, "quantization_config": mlx})
    launch, known = _launch(tree, tp=[1])
    assert "quantized by 'mlx'" in known["reason"]
    assert fit.too_large(launch, known) is None


@pytest.mark.parametrize(
    "words", [["--cpu-offload-gb", "80"], ["--cpu_offload_gb=80"], ["-ngl", "10"], ["--quantization=bitsandbytes"]]
)
def test_arguments_that_change_what_a_gpu_holds_are_no_reason_to_skip(tree: Tree, words: list[str]) -> None:
    tree.write("models/large/config.json", LLAMA)
    for extra, is_known in ((["--seed", "1"], True), (words, False)):
        study = tree.study(matrix={"model": "large", "framework": "fast", "tp": [1]}, server={"extra_args": extra})
        launch, known = expand(study).launches[0], study["shapes"]["large"]
        assert launch.extra_args == tuple(extra)
        assert bool(fit.too_large(launch, known)) is is_known
        assert (fit.requests_that_fit(launch, known) is not None) is is_known


def test_a_cache_that_is_not_known_is_no_reason_to_skip(tree: Tree) -> None:
    tree.write("models/large/config.json", {**LLAMA, "model_type": "novel", "mamba_d_state": 16})
    launch, known = _launch(tree, tp=[1])
    assert known["kv"] is None
    assert "not all attention" in known["reason"]
    assert (fit.too_large(launch, known), fit.requests_that_fit(launch, known)) == (None, None)


def test_a_million_tokens_of_a_hybrid_fit_where_its_few_caches_do(tree: Tree) -> None:
    layers = (["linear_attention"] * 3 + ["full_attention"]) * 20
    tree.write("models/large/config.json", {**LLAMA, "layer_types": layers, "quantization_config": AWQ})
    launch, known = _launch(tree, tp=[2], context_tokens=[1_000_000])
    assert fit.per_device(launch, known)[1] == 1_000_000 * 20 * 2 * 8 * 128 * 2 / 2
    assert fit.too_large(launch, known) is None
    tree.write("models/large/config.json", {**LLAMA, "quantization_config": AWQ})
    launch, known = _launch(tree, tp=[2], context_tokens=[1_000_000])
    assert "does not fit" in (fit.too_large(launch, known) or "")


def test_weights_in_32_bits_are_loaded_in_16_by_most_engines(tree: Tree) -> None:
    tree.write("models/large/config.json", {**LLAMA, "torch_dtype": "float32"})
    launch, known = _launch(tree, tp=[2])
    assert known["weight_bytes"] == 4 * 68_976_648_192
    assert fit.weight_bytes(launch, known) == 2 * 68_976_648_192
    assert fit.per_device(launch, known)[1] == 4096 * 320 * 1024 / 2
    launch, known = _launch(tree, tp=[2], dtype=["float32"])
    assert fit.weight_bytes(launch, known) == 4 * 68_976_648_192
    assert fit.per_device(launch, known)[1] == 4096 * 640 * 1024 / 2


def test_experts_that_are_not_told_apart_may_all_be_spread(tree: Tree) -> None:
    """A hybrid with experts: its files give the bytes, and nothing gives the experts' part."""
    config = {**LLAMA, "model_type": "novel_moe", "num_experts": 64}
    tree.write("models/large/config.json", config)
    launch, known = _launch(tree, tp=[1], dp=[8], ep=[8])
    known = {**known, "weight_bytes": 400 * 10**9}
    assert fit.per_device(launch, known)[0] == 50 * 10**9
    assert fit.per_device(launch, {**known, "experts": 0})[0] == 400 * 10**9, "a dense model has none to spread"


def test_tensors_in_32_bits_count_as_16_whatever_config_json_says(tree: Tree) -> None:
    tree.write("models/large/config.json", {**LLAMA, "torch_dtype": "bfloat16"})
    launch, known = _launch(tree, tp=[1])
    assert fit.weight_bytes(launch, {**known, "weight_bytes": 100, "wide_bytes": 60}) == 70


def test_how_many_requests_fit_by_hand(tree: Tree) -> None:
    launch, known = _launch(tree, tp=[2])
    room = 80 * 2**30 * 0.9 - 68_976_648_192
    assert fit.requests_that_fit(launch, known) == room // (4096 * 160 * 1024) == 12
    assert fit.requests_that_fit(launch, known, 1024) == room // (1024 * 160 * 1024)
    launch, known = _launch(tree, tp=[2], instances=[2])
    assert fit.requests_that_fit(launch, known) == 2 * 12, "two servers, each with GPUs of its own"
    launch, known = _launch(tree, tp=[1])
    assert fit.requests_that_fit(launch, known) == 0


def test_a_share_of_what_the_weights_leave_and_a_server_that_knows_no_share(tree: Tree, monkeypatch) -> None:
    launch, known = _launch(tree, tp=[2], memory_fraction=[0.8])
    assert fit.too_large(launch, known)
    monkeypatch.setattr(type(framework("fast")), "fraction_of_free", True)
    assert fit.too_large(launch, known) is None, "0.8 of the 17 GB beside the weights hold one request"
    assert fit.requests_that_fit(launch, known) == (80 * 2**30 - 68_976_648_192) * 0.8 // (4096 * 160 * 1024)
    monkeypatch.setattr(type(framework("fast")), "supported", {})
    launch, known = _launch(tree, tp=[2])
    assert fit.room(launch, 0.5).fraction == 1


@pytest.mark.parametrize(
    ("load", "options", "held"),
    [
        ({"concurrency": 64}, {}, 64),
        ({"concurrency": 64, "requests": 10}, {}, 10),
        ({"concurrency": 64}, {"max_batch": 16}, 16),
        ({"rate_rps": 4.0}, {}, None),
        ({"rate_rps": 4.0, "max_in_flight": 30}, {}, 30),
        ({"rate_rps": 4.0, "arrival": {"process": "burst", "size": 20}}, {}, 20),
    ],
)
def test_what_a_cell_holds_at_once(load: dict[str, Any], options: dict[str, Any], held: int | None) -> None:
    launch = Launch("fast", {"name": "m"}, {"name": "p"}, options=options)
    assert fit.held_at_once(launch, Load(**load)) == held


def test_the_plan_says_which_cells_hold_more_than_fits(tree: Tree) -> None:
    tree.write("config/prompts/long.yaml", {"description": "x", "kind": "synthetic", "input_tokens": 3000,
                                            "output_tokens": 1000})  # fmt: skip
    study = tree.study(
        matrix={"model": "large", "framework": "fast", "platform": "metal", "tp": [2], "prompts": ["long"],
                "concurrency": [4, 64], "rate": [1]},
        load={"requests": 200},
    )  # fmt: skip
    plan = expand(study)
    assert {planned.skipped for planned in plan.cells} == {None}, "they wait; they are no reason to skip"
    assert documents.shortages(plan) == [
        "fast large tp2 on metal: the KV cache has room for at most 12 requests of 4000 tokens, long conc64 holds 64: "
        "the others wait or are preempted"
    ]
    assert "Fits, but not all at once:\n    fast large tp2" in documents.render(plan, tree.root / "results")
