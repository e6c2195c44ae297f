"""Numbers of a model that a study may hold against what is published."""

from __future__ import annotations

from typing import Any

import pytest

from servegauge.inputs.model_numbers import model_number

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip


def test_of_config_json() -> None:
    assert model_number({}, LLAMA_8B, "parameters") == 8_030_261_248
    assert model_number({}, LLAMA_8B, "weight_bytes") == 2 * 8_030_261_248
    assert model_number({}, LLAMA_8B, "kv_bytes_per_token") == 128 * 1024
    assert model_number({}, LLAMA_8B, "heads_per_kv_head") == 4


def test_weights_are_counted_as_they_are_stored() -> None:
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    assert model_number({}, {**LLAMA_8B, "quantization_config": awq}, "weight_bytes") == pytest.approx(5.73e9, rel=0.01)
    odd = {"quant_method": "aqlm", "nbits": 2}
    assert model_number({}, {**LLAMA_8B, "quantization_config": odd}, "weight_bytes") is None


def test_an_index_beside_the_latent_counts_its_own_bytes() -> None:
    sparse = {
        "model_type": "deepseek_v32", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
        "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128, "vocab_size": 129280,
    }  # fmt: skip
    assert model_number({}, sparse, "kv_bytes_per_token") == 61 * ((512 + 64) * 2 + 132)
    assert model_number({}, sparse, "weight_bytes") is None


def test_of_the_models_file_alone() -> None:
    given = {"shape": {"parameters": 10, "kv_values_per_token": 3, "heads": 8, "kv_heads": 2}, "dtype": "float32"}
    names = ("parameters", "weight_bytes", "kv_bytes_per_token", "heads_per_kv_head")
    assert [model_number(given, None, name) for name in names] == [10, 40, 6, 4]
    assert model_number({}, None, "parameters") is None
