"""Decoder families whose layers are described exactly, by config.json's model_type: what the sizes alone do not say.

Norms, biases and tied embeddings of each; a family is here only where the parameters that follow are the published
ones (tests/unit has the table). Read from the published configuration and modelling classes of Hugging Face
transformers, and from the published weights. Sizes that a file leaves out: class_defaults.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What sizes do not show.

    `tied`: the output head is the embedding, where config.json does not say. `norms`: norms of the hidden size in a
    layer, each with `norm_values` numbers for one (2 with a bias). `head_norms`: norms of queries and keys: one vector
    of the head's size for each of the two (`head`), one as wide as all heads (`all`), or none. `bias`: what the
    projections have by class: `qkv`, `qkvo`, or nothing; `bias_key` names the key that decides where the file has it,
    for the projections `bias_of`. `gated`: the MLP has a gate (three matrices, else two).
    """

    tied: bool = False
    norms: int = 2
    norm_values: int = 1
    head_norms: str = ""
    head_norms_key: str | None = None
    bias: str = ""
    bias_key: str | None = "attention_bias"
    bias_of: str = "qkvo"
    mlp_bias: bool = False
    mlp_bias_key: str | None = "mlp_bias"
    gated: bool = True
    router_correction: bool = False  # one number for each expert beside the router
    expert_bias: bool = False
    sinks: bool = False  # one number for each head
    activation_values: int = 0  # numbers that the activation has learnt
    gated_attention: bool = False  # the queries' projection makes a gate, too
    operations: str = ""  # why its operations cannot be counted, although its weights can


_QWEN2_FAMILY = Family(bias="qkv", bias_key=None)
_QWEN3_FAMILY = Family(head_norms="head")
_DEEPSEEK_V3 = Family(router_correction=True)
_SPARSE_LATENT = Family(router_correction=True, operations="it attends to tokens that an index chooses")
_GATED_DELTA = Family(head_norms="head", gated_attention=True, operations="most of its layers are linear attention")

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(bias_key=None),
    "ministral3": Family(bias_key=None),
    "mixtral": Family(bias_key=None),
    "qwen2": _QWEN2_FAMILY,
    "qwen2_vl": _QWEN2_FAMILY,
    "qwen2_vl_text": _QWEN2_FAMILY,
    "qwen2_5_vl": _QWEN2_FAMILY,
    "qwen2_5_vl_text": _QWEN2_FAMILY,
    "qwen2_5_omni_text": _QWEN2_FAMILY,
    "qwen2_moe": Family(bias="qkv", bias_key=None),
    "qwen3": _QWEN3_FAMILY,
    "qwen3_vl_text": _QWEN3_FAMILY,
    "qwen3_moe": _QWEN3_FAMILY,
    "qwen3_vl_moe_text": _QWEN3_FAMILY,
    "qwen3_omni_moe_text": _QWEN3_FAMILY,
    "qwen3_next": _GATED_DELTA,
    "qwen3_5_text": _GATED_DELTA,
    "qwen3_5_moe_text": _GATED_DELTA,
    "deepseek": Family(),
    "deepseek_v2": Family(),
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": _DEEPSEEK_V3,
    "glm4_moe_lite": _DEEPSEEK_V3,
    "deepseek_v32": _SPARSE_LATENT,
    "glm_moe_dsa": _SPARSE_LATENT,
    "phi3": Family(bias_key=None),
    "phimoe": Family(norm_values=2),
    "gemma": Family(tied=True),
    "gemma2": Family(tied=True, norms=4),
    "gemma3_text": Family(tied=True, norms=4, head_norms="head"),
    "olmo": Family(norm_values=0),
    "olmo2": Family(head_norms="all"),
    "olmo3": Family(head_norms="all"),
    "olmoe": Family(head_norms="all"),
    "granite": Family(),
    "granitemoe": Family(),
    "glm": Family(bias="qkv", bias_of="qkv"),
    "glm4": Family(bias="qkv", bias_of="qkv", norms=4),
    "glm4v_text": Family(bias="qkv", bias_of="qkv", norms=4),
    "glm4v_moe_text": Family(bias_of="qkv", router_correction=True),
    "glm4_moe": Family(bias_of="qkv", head_norms="head", head_norms_key="use_qk_norm", router_correction=True),
    "gpt_oss": Family(bias="qkvo", expert_bias=True, sinks=True),
    "seed_oss": Family(bias="qkv", bias_of="qkv"),
    "smollm3": Family(tied=True),
    "cohere": Family(tied=True, norms=1),
    "cohere2": Family(tied=True, norms=1),
    "starcoder2": Family(
        tied=True, norm_values=2, bias="qkvo", bias_key="use_bias", mlp_bias=True, mlp_bias_key="use_bias", gated=False
    ),
    "exaone4": Family(head_norms="head", bias_key=None),
    "exaone_moe": Family(head_norms="head", bias_key=None, router_correction=True),
    "ernie4_5": Family(tied=True, bias_key="use_bias", mlp_bias_key="use_bias"),
    "ernie4_5_moe": Family(tied=True, bias_key="use_bias", mlp_bias_key="use_bias", router_correction=True),
    "hunyuan_v1_dense": Family(head_norms="head"),
    "hunyuan_v1_moe": Family(head_norms="head"),
    "arcee": Family(gated=False),
    "apertus": Family(head_norms="head", gated=False, activation_values=2),
    "internlm2": Family(bias_key="bias"),
    "internlm3": Family(bias_key="qkv_bias", bias_of="qkv", mlp_bias_key="bias"),
    "llama4_text": Family(),
    "minimax_m2": Family(head_norms="all", bias_key=None, router_correction=True),
    "dots1": Family(head_norms="head", router_correction=True),
    "solar_open": Family(bias_of="qkv", router_correction=True),
}
# The output head is the embedding in these too; their weights are not described, their caches are
TIED_ELSEWHERE = ("gemma3n_text", "gemma4_text", "lfm2", "recurrent_gemma", "zamba", "zamba2", "falcon", "gpt2")


def tied_by_class(family: str) -> bool:
    """Whether a family ties the output head to the embedding where config.json does not say."""
    return FAMILIES[family].tied if family in FAMILIES else family in TIED_ELSEWHERE
