"""Shapes of public models against the numbers that their makers publish."""

from __future__ import annotations

import json

import pytest

from servegauge.inputs.model_shape import UnknownShape, bytes_of, from_config, read_shape

LLAMA_31_8B = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_2_70B = LLAMA_31_8B | {
    "num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "intermediate_size": 28672,
    "vocab_size": 32000, "torch_dtype": "float16",
}  # fmt: skip
LLAMA_31_405B = LLAMA_31_8B | {
    "num_hidden_layers": 126, "hidden_size": 16384, "num_attention_heads": 128, "intermediate_size": 53248,
}  # fmt: skip
QWEN3_30B_A3B = {
    "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "vocab_size": 151936, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "sliding_window": None,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "vocab_size": 129280, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_31_8B, 8_030_261_248),  # the total_size of its safetensors index / 2
        (LLAMA_2_70B, 68_976_648_192),
        (QWEN3_30B_A3B, 30_532_122_624),
        (DEEPSEEK_V3, 671_026_419_200),  # the report's 671B, without the extra prediction layer
    ],
)
def test_parameters_of_public_models_to_the_last_one(config, parameters):
    assert from_config(config).parameters == parameters


def active(shape):
    """Weights that one token uses, the embedding's table included, as model cards count them."""
    used = sum(matrix.weights_used for matrix in shape.matrices() if matrix.experts > 1)
    return shape.parameters - shape.expert_parameters + used


def test_active_parameters_as_the_model_cards_say():
    assert active(from_config(QWEN3_30B_A3B)) == pytest.approx(3.3e9, rel=0.02)
    assert active(from_config(DEEPSEEK_V3)) == pytest.approx(37e9, rel=0.02)
    dense = from_config(LLAMA_31_8B)
    assert active(dense) == dense.parameters


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        (LLAMA_2_70B, 320 * 1024),
        # Table 1 of "Insights into DeepSeek-V3" (arXiv 2505.09343): 70.272 KB and 516.096 KB per token in bf16
        (DEEPSEEK_V3, 70_272),
        (LLAMA_31_405B, 516_096),
    ],
)
def test_kv_bytes_per_token_against_published_values(config, bytes_per_token):
    assert from_config(config).kv_bytes() == bytes_per_token


def test_gemm_shapes_of_a_dense_model_split_over_two_gpus():
    shapes = {matrix.name: (matrix.k, matrix.n) for matrix in from_config(LLAMA_31_8B).matrices(tp=2)}
    assert shapes == {
        "qkv": (4096, (16 + 2 * 4) * 128),
        "attention_out": (2048, 4096),
        "ffn_up_gate": (4096, 14336),
        "ffn_down": (7168, 4096),
        "output_head": (4096, 64128),
    }


def test_kv_heads_are_repeated_when_there_are_more_gpus():
    shapes = {matrix.name: matrix for matrix in from_config(QWEN3_30B_A3B).matrices(tp=8)}
    assert shapes["qkv"].n == (4 + 2 * 1) * 128
    assert (shapes["expert_up_gate"].n, shapes["expert_up_gate"].experts, shapes["expert_up_gate"].used) == (
        192,
        128,
        8,
    )
    assert shapes["router"].n == 128, "every GPU routes for itself"


def test_gemm_shapes_of_a_model_with_latent_attention():
    shapes = {matrix.name: (matrix.k, matrix.n, matrix.layers) for matrix in from_config(DEEPSEEK_V3).matrices(tp=8)}
    assert shapes["kv_down"] == (7168, 576, 61)
    assert shapes["q_down"] == (7168, 1536, 61)
    assert shapes["q_up"] == (1536, 16 * 192, 61)
    assert shapes["kv_up"] == (512, 16 * 256, 61)
    assert shapes["attention_out"] == (16 * 128, 7168, 61)
    assert shapes["ffn_up_gate"] == (7168, 4608, 3)
    assert shapes["expert_down"] == (256, 7168, 58)
    assert shapes["shared_down"] == (256, 7168, 58)


@pytest.mark.parametrize("config", [LLAMA_31_8B, LLAMA_2_70B, QWEN3_30B_A3B])
def test_what_is_split_adds_up(config):
    whole, halves = from_config(config).matrices(), from_config(config).matrices(tp=2)
    for one, half in zip(whole, halves, strict=True):
        assert one.weights == (half.weights if one.name == "router" else 2 * half.weights)


def test_a_split_that_does_not_divide_is_refused():
    with pytest.raises(UnknownShape, match=r"32 \(attention heads\) cannot be split over 3 GPUs"):
        from_config(LLAMA_31_8B).matrices(tp=3)
    with pytest.raises(UnknownShape, match="6 KV heads cannot be split over 16 GPUs"):
        from_config(LLAMA_31_8B | {"num_key_value_heads": 6}).matrices(tp=16)


def test_sliding_windows_end_the_growth_of_the_cache():
    gemma = LLAMA_31_8B | {
        "layer_types": ["sliding_attention", "full_attention"] * 16, "sliding_window": 1024,
    }  # fmt: skip
    shape = from_config(gemma)
    per_layer = 2 * 8 * 128
    assert shape.kv_bytes(100, "int8") == 32 * per_layer * 100
    assert shape.kv_bytes(5000, "int8") == 16 * per_layer * 5000 + 16 * per_layer * 1024
    assert from_config(LLAMA_31_8B | {"sliding_window": 4096}).kv_bytes(8192, "int8") == 32 * per_layer * 4096
    off = from_config(LLAMA_31_8B | {"sliding_window": 4096, "use_sliding_window": False})
    assert off.kv_bytes(8192, "int8") == 32 * per_layer * 8192


def test_the_cache_of_another_data_type():
    shape = from_config(LLAMA_2_70B)
    assert shape.kv_bytes(1, "fp8_e4m3") == 160 * 1024
    assert shape.kv_bytes(10, "q8_0") == 10 * 163840 * 34 / 32
    assert from_config(LLAMA_2_70B | {"torch_dtype": "float8_e4m3fn"}).kv_bytes() == 320 * 1024
    assert bytes_of(None) == 2.0


def test_an_unknown_family_has_a_cache_and_no_weights():
    shape = from_config(LLAMA_31_8B | {"model_type": "novel"})
    assert shape.kv_bytes() == 128 * 1024
    assert (shape.parameters, shape.expert_parameters) == (None, None)
    with pytest.raises(UnknownShape, match="'novel' are not known here"):
        shape.matrices()


def test_reading_a_folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"text_config": LLAMA_31_8B, "model_type": "vision"}))
    assert read_shape(tmp_path).layers == 32
    with pytest.raises(UnknownShape, match="no 'num_hidden_layers'"):
        from_config({"model_type": "llama"})
    with pytest.raises(OSError, match=r"config\.json"):
        read_shape(tmp_path / "absent")
