"""Bytes of weights from config.json alone, quantized ones against the sizes of published files."""

from __future__ import annotations

from typing import Any

import pytest

from servegauge.inputs.config_json import UnknownShape
from servegauge.inputs.model_shape import from_config
from servegauge.inputs.weights import stored_bytes

QWEN2_72B: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 8192, "intermediate_size": 29696, "num_attention_heads": 64,
    "num_hidden_layers": 80, "num_key_value_heads": 8, "vocab_size": 152064, "torch_dtype": "float16",
}  # fmt: skip
LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201088, "num_experts_per_tok": 4, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "vocab_size": 129280, "torch_dtype": "bfloat16",
}  # fmt: skip
LINEAR = 32 * (4096 * 6144 + 4096 * 4096 + 3 * 4096 * 14336)  # numbers in Llama's quantized layers
REST = 2 * 128256 * 4096 + 65 * 4096  # embedding, head, norms


def gigabytes(config: dict[str, Any], quantization: dict[str, Any] | None) -> float:
    return stored_bytes(from_config(config), quantization)[0] / 1e9


@pytest.mark.parametrize(
    ("config", "quantization", "published_gb"),
    [
        # sizes of the published files, in 10^9 bytes
        (QWEN2_72B, {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 41.6),
        (LLAMA_8B, {"quant_method": "awq", "bits": 4, "group_size": 128}, 5.73),
        (LLAMA_8B, {"quant_method": "fp8"}, 9.08),
        (
            LLAMA_8B,
            {
                "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"],
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 128}}},
            },
            5.73,
        ),
        (
            {**GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32},
            {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]},
            13.76,
        ),
        ({**GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128}, {"quant_method": "mxfp4"}, 65.25),
        (DEEPSEEK_V3, {"quant_method": "fp8", "weight_block_size": [128, 128]}, 673.0),  # without its extra layer
        (  # Kimi-K2-Thinking: 4 bits for the routed experts alone
            {**DEEPSEEK_V3, "model_type": "kimi_k2", "num_attention_heads": 64, "n_routed_experts": 384,
             "first_k_dense_replace": 1, "vocab_size": 163840},
            {
                "quant_method": "compressed-tensors", "format": "pack-quantized",
                "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|down)_proj.*"],
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
            },
            594.0,
        ),
        (
            LLAMA_8B,
            {"quant_method": "quark", "exclude": ["lm_head"],
             "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}},
            9.08,
        ),
    ],
)  # fmt: skip
def test_sizes_of_published_files(config: dict[str, Any], quantization: dict[str, Any], published_gb: float) -> None:
    assert gigabytes(config, quantization) == pytest.approx(published_gb, rel=0.015)


def test_bits_by_hand() -> None:
    for quantization, bits in (
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 4.5),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}, 4.5),
        ({"quant_method": "exl2", "bits": 3.5}, 3.5),
        ({"quant_method": "modelopt_mxfp8", "quant_algo": "MXFP8"}, 8.25),
        ({"quant_method": "w8a8_int8"}, 8),
        (
            {
                "quant_method": "quark",
                "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32, "scale_format": "e8m0"}},
            },
            4.25,
        ),
    ):
        whole = stored_bytes(from_config(LLAMA_8B), quantization)[0]
        assert whole == pytest.approx(LINEAR * bits / 8 + REST * 2, rel=1e-9), quantization
    assert stored_bytes(from_config(LLAMA_8B), None) == (2 * (LINEAR + REST), 0)


def test_what_the_file_leaves_out_keeps_its_bits() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    mlp = 32 * 3 * 4096 * 14336
    each = [f"model.layers.{layer}.mlp.{part}_proj" for layer in range(32) for part in ("up", "down")]
    for names in (["mlp"], ["re:.*mlp.*"], ["model.layers.*.mlp"], ["gate_proj", "down_proj"], each):
        left = stored_bytes(from_config(LLAMA_8B), {**awq, "modules_to_not_convert": names})[0]
        assert left - stored_bytes(from_config(LLAMA_8B), awq)[0] == pytest.approx(mlp * (16 - 4 - 20 / 128) / 8)
    prefixed = [f"language_model.{name}" for name in each]  # of a multimodal model
    starred = [f"model.language_model.layers.{layer}.mlp*" for layer in range(32)]
    rules = {"dynamic": {"-:.*mlp": {}}}, {"extra_config": {name: {"bits": 16} for name in each}}
    for left_out in ({"ignore": prefixed}, {"ignore": starred}, *rules):
        left = stored_bytes(from_config(LLAMA_8B), {**awq, "quant_method": "gptq", **left_out})[0]
        assert left - stored_bytes(from_config(LLAMA_8B), awq)[0] == pytest.approx(mlp * (16 - 4 - 20 / 128) / 8)
    head = stored_bytes(from_config(LLAMA_8B), {**awq, "lm_head": True})[0]
    assert head < stored_bytes(from_config(LLAMA_8B), awq)[0]


@pytest.mark.parametrize(
    ("quantization", "said"),
    [
        ({"quant_method": "aqlm"}, "quantized by 'aqlm', whose bytes are not known here"),
        ({"quant_method": "awq"}, "no bits that are understood"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "no config_groups"),
        (
            {"quant_method": "compressed-tensors",
             "config_groups": {"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}}},
            "different bits",
        ),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ_X"}, "modelopt as 'w4a8_awq_x'"),
        ({"some": "thing"}, "names no quant_method"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"+:.*down.*": {"bits": 8}}}, "different bits"),
        ({"quant_method": "auto-round", "bits": 4, "extra_config": {"a": {"bits": 8}}}, "different bits"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp6"}}}, "quark as 'fp6'"),
        ({"quant_method": "quark", "layer_quant_config": {"*.mlp": {}}}, "different bits"),
        ({"quant_method": "fp8", "sparsity_config": {"format": "sparse-24-bitmask"}}, "stored sparse"),
    ],
)  # fmt: skip
def test_a_way_of_quantizing_that_is_not_known_is_no_guess(quantization: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownShape, match=r".*") as caught:
        stored_bytes(from_config(LLAMA_8B), quantization)
    assert said in str(caught.value)


def test_layers_of_one_kind_are_left_out_where_only_they_are_named() -> None:
    """Qwen3-Next: the linear attention of 36 layers stays as it is, its experts are quantized."""
    config = {
        "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "intermediate_size": 5120, "full_attention_interval": 4,
        "linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_num_value_heads": 32,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "vocab_size": 151936, "torch_dtype": "bfloat16",
    }  # fmt: skip
    linear = [layer for layer in range(48) if (layer + 1) % 4]
    fp8 = {"quant_method": "fp8"}
    for names, numbers in (
        (
            [f"model.layers.{layer}.linear_attn.in_proj_qkvz" for layer in linear],
            36 * 2048 * (2 * 2048 + 2 * 4096 + 64),
        ),
        ([f"model.layers.{layer}.linear_attn.in_proj_qkvz" for layer in linear[1:]], 0),  # in some layers only
        ([f"model.layers.{layer}.self_attn.o_proj" for layer in range(3, 48, 4)], 12 * 4096 * 2048),
    ):
        left = stored_bytes(from_config(config), {**fp8, "modules_to_not_convert": names})[0]
        assert left - stored_bytes(from_config(config), fp8)[0] == numbers


def test_a_family_whose_weights_are_not_described_has_no_bytes() -> None:
    with pytest.raises(UnknownShape, match="the layers of 'jamba' are not known"):
        stored_bytes(from_config({**LLAMA_8B, "model_type": "jamba"}), None)
