"""What a class takes for sizes that a config.json leaves out: the numbers of Hugging Face transformers' classes.

They count inside a multimodal model's file only. There a nested part holds what differs from its class, so that a
missing key is the class's number; a file of its own holds every key of its class.
"""

from __future__ import annotations

from typing import Any


def _class(
    layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, head_dim: int | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "head_dim": head_dim,
        **more,
    }


_LATENT = {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
_LLAMA = _class(32, 4096, 32, 32, 11008, 32000)
_MISTRAL = _class(32, 4096, 32, 8, 14336, 32000, sliding_window=4096)
_QWEN2_VL = _class(80, 8192, 64, 8, 29568, 152064)
_DELTA = {
    "linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_num_value_heads": 32, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}  # fmt: skip
_QWEN3 = _class(32, 4096, 32, 32, 22016, 151936, 128)

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "granite": _LLAMA,
    "mistral": _MISTRAL,
    "ministral3": {**_MISTRAL, "vocab_size": 131072, "num_hidden_layers": 34, "head_dim": 128, "sliding_window": None},
    "qwen2": _class(32, 4096, 32, 32, 22016, 151936),
    "qwen2_vl_text": _QWEN2_VL,
    "qwen2_5_vl_text": _QWEN2_VL,
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3,
    "qwen3_5_text": _class(32, 4096, 16, 4, 12288, 248320, 256, **_DELTA),
    "qwen3_5_moe_text": _class(
        40, 2048, 16, 2, 5632, 248320, 256, num_experts=256, moe_intermediate_size=512, num_experts_per_tok=8,
        shared_expert_intermediate_size=512, **_DELTA,
    ),
    "gemma": _class(28, 3072, 16, 16, 24576, 256000, 256),
    "gemma2": _class(26, 2304, 8, 4, 9216, 256000, 256, sliding_window=4096),
    "gemma3_text": _class(26, 2304, 8, 4, 9216, 262208, 256, sliding_window=4096),
    "gemma3n_text": _class(35, 2048, 8, 2, 16384, 262400, 256, sliding_window=512),
    "gemma4_text": _class(30, 2304, 8, 4, 9216, 262144, 256, sliding_window=512),
    "cohere2": _class(40, 8192, 64, 64, 22528, 256000, 128, sliding_window=4096),
    "llama4_text": _class(
        48, 5120, 40, 8, 8192, 202048, 128, intermediate_size_mlp=16384, num_local_experts=16, num_experts_per_tok=1
    ),
    "deepseek_v2": _class(
        32, 4096, 32, 32, 11008, 102400, **_LATENT, n_routed_experts=64, n_shared_experts=2, moe_intermediate_size=1407,
        first_k_dense_replace=0,
    ),
    "deepseek_v3": _class(
        61, 7168, 128, 128, 18432, 129280, **_LATENT, n_routed_experts=256, n_shared_experts=1,
        moe_intermediate_size=2048, first_k_dense_replace=3, num_experts_per_tok=8,
    ),
    "glm4v_text": _class(40, 4096, 32, 2, 13696, 151552),
    "glm4v_moe_text": _class(
        46, 4096, 96, 8, 10944, 151424, n_routed_experts=128, n_shared_experts=1, moe_intermediate_size=1408,
        first_k_dense_replace=1, num_experts_per_tok=8,
    ),
    "mllama_text_model": _class(40, 4096, 32, 8, 14336, 128256),
    "exaone4": _class(32, 4096, 32, 32, 16384, 102400, sliding_window=4096),
    "lfm2": _class(32, 2560, 32, 8, 12288, 65536),
}  # fmt: skip
