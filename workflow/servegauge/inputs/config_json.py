"""config.json as it is written by many hands: which part of it is the language model, and what its keys are called.

A multimodal model nests its language model, and writes there only what differs from its class's defaults; families that
came with code of their own have other names for the same sizes. Nothing here knows what a size means.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

# Where multimodal configs keep their language model (LLaVA and most others; InternVL; DeepSeek-VL2, Janus; Qwen-Omni)
NESTS = ("text_config", "llm_config", "language_config", "thinker_config", "language_model_config")
# Our name of a size -> what configs call it, the usual name first
NAMES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_transformer_layers"),
    "hidden": ("hidden_size", "n_embd", "n_embed", "d_model", "model_dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": (
        "num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv", "num_attention_groups",
        "multi_query_group_num",
    ),
    "head_dim": ("head_dim", "attention_head_dim", "kv_channels", "d_kv"),
    "ffn": ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"),
    "experts_used": ("num_experts_per_tok", "moe_topk", "moe_k"),
    "experts_shared": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert"),
    "expert_ffn": ("moe_intermediate_size",),
    "dense_first": ("first_k_dense_replace", "moe_layer_start_index"),
}  # fmt: skip


class UnknownShape(ValueError):
    """The config lacks what is asked for, or says it in a way that is not known; the text says what."""


class Config:
    """The language model's part of a config.json, with the names of `NAMES`.

    `family`: its model_type. `nested`: it stands inside a multimodal model's file. `defaults`: its class's own values,
    which count where the file says nothing. `varies`: some layers have sizes of their own (`at`).
    """

    def __init__(self, data: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        if not isinstance(data, Mapping):
            raise UnknownShape(f"config.json holds {type(data).__name__}, not a mapping")
        self.outer = data
        self.text = _language_part(data)
        self.nested = self.text is not data
        self.family = str(self.text.get("model_type") or f"{data.get('model_type', '')}")
        if self.nested and not self.text.get("model_type") and defaults and f"{self.family}_text" in defaults:
            self.family += "_text"  # gemma3 -> gemma3_text: the name of a nested part that its file leaves out
        self.defaults = (defaults or {}).get(self.family, {}) if self.nested else {}
        self.varies = bool(self.get("per_layer_config") or self.get("num_key_value_heads_per_layer"))

    def __contains__(self, key: str) -> bool:
        return key in self.text

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, as the file has it; None in the file is None."""
        return self.text[key] if key in self.text else self.defaults.get(key, default)

    def at(self, layer: int) -> Config:
        """The same for one layer, counted from 0, with the sizes that the file gives to this one alone."""
        if not self.varies:
            return self
        own: dict[str, Any] = {}
        if isinstance(self.get("num_key_value_heads_per_layer"), list):  # DeciLM
            own["num_key_value_heads"] = self.get("num_key_value_heads_per_layer")[layer]
        each = self.get("per_layer_config") or {}  # transformers 5: {"07": {"kv_lora_rank": 1024}, ...}
        own.update(next((sizes for number, sizes in each.items() if int(number) == layer), {}))
        found = copy.copy(self)
        found.text = {**self.text, **own}
        return found

    def either(self, key: str) -> Any:
        """The value of `key` in the language part, else beside it; None where neither says anything."""
        return self.text[key] if self.text.get(key) is not None else self.outer.get(key)

    def size(self, name: str) -> int | None:
        """One of `NAMES` as a whole number; None where it is absent or is not one number for all layers."""
        for where in (self.text, self.defaults):
            for key in NAMES[name]:
                value = where.get(key)
                if isinstance(value, list) and len(value) == self.text.get("num_hidden_layers"):
                    value = value[0] if value == value[:1] * len(value) else None  # one for each layer (Hunyuan)
                fewest = 0 if name == "experts" else 1
                if isinstance(value, int) and not isinstance(value, bool) and value >= fewest:
                    return value
        return None

    def need(self, name: str) -> int:
        """As `size`; UnknownShape with the usual name where it is absent."""
        found = self.size(name)
        if found is None:
            raise UnknownShape(f"config.json has no {NAMES[name][0]!r}")
        return found


def _language_part(data: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in NESTS:
        inner = data.get(key)
        if isinstance(inner, Mapping):
            return _language_part(inner)
    return data
