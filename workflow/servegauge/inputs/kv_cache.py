"""Which layers of a model keep a cache, of how many numbers a token, and for how many tokens: from its config.json.

    full attention      keys and values of every token
    sliding attention   those of the last `sliding_window` tokens
    chunked attention   those of the chunk at hand: at most `attention_chunk_size` tokens
    latent (MLA)        one compressed vector and the rotary part of the key, once for all heads
    anything else       a state of fixed size (linear attention, state spaces, convolutions): nothing that grows

Files say it in a dozen ways: a list of kinds, a pattern, a period and an offset, indices, or nothing but the family's
class. What a file says in a way that is not known here is UnknownShape, never a guess: a wrong cache counts a cell out
that would have run. States of fixed size are not counted; engines hold more than this, never less.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from servegauge.inputs.config_json import Config, UnknownShape

DTYPE_BYTES = {
    "float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8": 1.0, "float8_e4m3fn": 1.0, "fp8": 1.0, "fp32": 4.0,
    "fp16": 2.0, "bf16": 2.0,
}  # fmt: skip

FULL, SLIDING, CHUNKED, INDEXED, STATE = "full", "sliding", "chunked", "indexed", "state"
# Words for layers -> what they keep. `hybrid`: attention beside a state space in one layer (Falcon-H1, Zamba).
KINDS = {
    "full_attention": FULL, "attention": FULL, "global": FULL, "global_attention": FULL, "hybrid": FULL,
    "sliding_attention": SLIDING, "local": SLIDING, "local_attention": SLIDING, "sliding_window_attention": SLIDING,
    "hybrid_sliding": SLIDING, "chunked_attention": CHUNKED, "indexed_attention": INDEXED,
    "deepseek_sparse_attention": INDEXED,
    "linear_attention": STATE, "mamba": STATE, "mamba1": STATE, "mamba2": STATE, "recurrent": STATE, "conv": STATE,
    "mlp": STATE, "moe": STATE, "short_conv": STATE, "gated_deltanet": STATE, "kda": STATE, "rwkv": STATE,
}  # fmt: skip
# Families without any attention
STATE_ONLY = ("mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv5", "rwkv6", "rwkv7", "xlstm")
# Encoders (embedders, rerankers): nothing is kept for a next token, unless `is_decoder`
ENCODERS = (
    "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "electra", "ernie",
    "esm", "eurobert", "gte", "megatron-bert", "modernbert", "mpnet", "neobert", "new", "nomic_bert", "rembert",
    "roberta", "roberta-prelayernorm", "roformer", "xlm-roberta", "xlm-roberta-flash", "xlm-roberta-xl", "xmod",
)  # fmt: skip
# Families that have attention in each of their layers, whatever else is in them
ATTENTION_EVERYWHERE = ("falcon_h1",)
# Keys that describe layers which are not attention; where one stands and no rule below reads it, nothing is guessed
MIXING = (
    "mamba", "ssm", "linear_attn", "linear_num", "linear_key", "linear_conv", "rwkv", "recurrent", "lru_", "hybrid",
    "block_types", "attn_layer", "attention_layers", "attention_types", "attn_type", "mixer", "lightning", "conv_l",
    "attn_mode", "compress_r", "kv_reuse", "swa_", "deltanet", "short_conv",
)  # fmt: skip


@dataclass(frozen=True)
class CacheGroup:
    """Layers with the same KV cache: `values` numbers per token and layer, kept for `window` tokens (None: all).

    `value_bytes`: bytes of each number where it is not the cache's data type (an index that is always 8 bits wide).
    """

    layers: int
    values: int
    window: int | None = None
    value_bytes: float | None = None


def bytes_of(dtype: str | None) -> float:
    """Bytes of one number of a data type as config.json or a study spells it; 16 bit where it is not said."""
    return DTYPE_BYTES.get((dtype or "bfloat16").removeprefix("torch."), 2.0)


def cache_value_bytes(dtype: str) -> float:
    """Bytes of one number in a KV cache, whose names are the engines' (fp8_e5m2, q8_0, ...)."""
    # GGML's block formats hold 32 values and their scales, NVFP4's 16 and a scale of 8 bits.
    blocks = {"q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32}
    blocks["nvfp4"] = 9 / 16
    plain = {"f32": 4.0, "f16": 2.0, "int8": 1.0, "int4": 0.5}
    return 1.0 if dtype.startswith("fp8") else {**DTYPE_BYTES, **plain, **blocks}.get(dtype, 2.0)


def cache_groups(config: Config) -> tuple[CacheGroup, ...]:
    """The caches of all layers; UnknownShape where the file does not say it in a known way."""
    if config.outer.get("is_encoder_decoder") is True:
        raise UnknownShape("an encoder-decoder model: its caches are not described here")
    if (config.family in STATE_ONLY and not config.get("attn")) or (
        config.family in ENCODERS and not config.get("is_decoder")
    ):
        return ()
    if "block_configs" in config:
        return _block_configs(config)
    if isinstance(config.get("num_kv_heads"), list):  # OpenELM: another number for each layer
        values = [2 * heads * config.need("head_dim") for heads in config.get("num_kv_heads")]
        return _gather((None, value) for value in values)
    kinds = _kinds(config)
    shared = config.get("num_kv_shared_layers", 15 if config.family == "gemma3n_text" else 0) or 0
    kinds = kinds[: len(kinds) - shared]  # the last ones read the caches of earlier ones
    if SLIDING in kinds and window(config, SLIDING) is None:
        kinds = [FULL if kind == SLIDING else kind for kind in kinds]
    layers = [(kind, config.at(layer)) for layer, kind in enumerate(kinds) if kind != STATE]
    found = _gather((window(layer, kind), _values(layer, kind)) for kind, layer in layers)
    index = config.get("index_head_dim")
    if INDEXED in kinds:
        if not index or not config.get("kv_lora_rank"):
            raise UnknownShape("layers of kind 'indexed_attention' without an index_head_dim")
        # DeepSeek's sparse attention: a key for the index, 8 bits a number and a 32-bit scale for each 128 of them
        indexed = sum(_has_index(config, layer) for layer, kind in enumerate(kinds) if kind == INDEXED)
        found += (CacheGroup(indexed, index + 4 * math.ceil(index / 128), None, 1.0),)
    sparse = config.get("sparse_attention_config")
    if isinstance(sparse, dict) and sparse.get("use_sparse_attention"):  # MiniMax-M3: a key for the index, once
        found += _gather((None, sparse["sparse_index_dim"]) for chosen in sparse["sparse_attention_freq"] if chosen)
    return found


def _has_index(config: Config, layer: int) -> bool:
    """Whether a layer of sparse attention has an index of its own; the others use an earlier layer's (GLM-5.2)."""
    told = config.get("indexer_types") or config.get("index_topk_pattern")
    if told:
        return told[layer] in ("full", "F")
    every, first = config.get("index_topk_freq") or 1, config.get("index_skip_topk_offset", 2)
    return max(layer - first + 1, 0) % every == 0


def _gather(layers: Iterable[tuple[int | None, int]]) -> tuple[CacheGroup, ...]:
    """Layers of one (window, values) as one group each."""
    groups = tuple(CacheGroup(count, values, limit) for (limit, values), count in Counter(layers).items())
    if not all(isinstance(one.values, int) and isinstance(one.window, int | None) for one in groups):
        raise UnknownShape("a size of the caches is no whole number")
    return groups


def window(config: Config, kind: str) -> int | None:
    """Tokens that a layer of this kind keeps; None: all."""
    if kind == CHUNKED:
        return config.get("attention_chunk_size", 8192) or None
    if kind != SLIDING:
        return None
    by_class = {"gemma2": 4096, "cohere2": 4096, "olmo3": 4096, "gpt_oss": 128, "gemma3n_text": 512, "mistral": 4096}
    names = ("sliding_window", "attention_window_size", "sliding_window_size", "window_size", "local_attention_window")
    for name in names:
        if name in config or config.get(name) is not None:
            found = config.get(name)
            return found if isinstance(found, int) and found > 0 else None
    return by_class.get(config.family)


def _values(config: Config, kind: str) -> int:
    """Numbers that one layer of this kind caches for one token."""
    latent = config.get("kv_lora_rank")
    if latent:
        if not isinstance(config.get("qk_rope_head_dim"), int):
            raise UnknownShape("config.json has no 'qk_rope_head_dim'")
        return latent + config.get("qk_rope_head_dim")
    heads, size = kv_heads(config), head_size(config)
    value_size = size
    if config.family in ("zamba", "zamba2"):  # its attention sees the layer's input and the model's, side by side
        size = value_size = config.size("head_dim") or 2 * config.need("hidden") // config.need("heads")
    elif config.family.startswith("gemma4") and kind == FULL:
        size = value_size = config.get("global_head_dim", 512) or size
        if config.get("attention_k_eq_v"):
            heads = config.get("num_global_key_value_heads") or heads
    elif config.family.startswith("mimo_v2"):  # keys and values of different sizes
        value_size = config.get("v_head_dim") or size
    if kind == SLIDING:  # windows with heads of their own: MiMo-V2 and Inkling, Step-3.5
        other = config.get("attention_other_setting")
        if isinstance(other, dict) and other.get("attention_type", "sliding_attention") == "sliding_attention":
            heads, size = other.get("num_attention_groups") or heads, other.get("head_dim") or size
            value_size = size
        twice = 2 * heads if config.family.startswith("mimo_v2") else heads  # by class
        heads, size = config.get("swa_num_key_value_heads") or twice, config.get("swa_head_dim") or size
        value_size = config.get("swa_v_head_dim") or (size if config.get("swa_head_dim") else value_size)
    return heads * (size + value_size)


def kv_heads(config: Config) -> int:
    """Heads of keys and values, the most that a layer has; as many as of queries where the file names none."""
    heads = config.need("heads")
    if "num_key_value_heads" not in config and config.get("num_key_value_heads_per_layer"):
        return max(config.get("num_key_value_heads_per_layer"))
    inner = config.get("attn_config")  # MPT, DBRX
    if isinstance(inner, dict) and (inner.get("kv_n_heads") or inner.get("attn_type") == "multiquery_attention"):
        return inner.get("kv_n_heads") or 1
    one_for_all = config.family == "gpt_bigcode" or not config.get("new_decoder_architecture")
    if config.family in ("falcon", "RefinedWebModel", "gpt_bigcode") and one_for_all:
        return 1 if config.get("multi_query", True) else heads
    if config.family == "chatglm" and not config.get("multi_query_attention"):
        return heads
    found = config.size("kv_heads")
    if found is None and config.nested and not config.defaults:
        raise UnknownShape(
            f"a nested {config.family!r} without num_key_value_heads, whose class's own is not known here"
        )
    return found or heads


def head_size(config: Config) -> int:
    """Numbers of a head."""
    return config.size("head_dim") or config.need("hidden") // config.need("heads")


def _block_configs(config: Config) -> tuple[CacheGroup, ...]:
    """Nemotron's pruned Llamas (NAS): each layer with its own number of KV heads, or without attention."""
    heads, size, layers = config.need("heads"), head_size(config), []
    for block in config.get("block_configs"):
        attention = block.get("attention") if isinstance(block, dict) else None
        if not isinstance(attention, dict):
            raise UnknownShape("block_configs in a form that is not known")
        if attention.get("no_op") or attention.get("replace_with_linear"):
            continue
        group = attention.get("n_heads_in_group")
        if not isinstance(group, int) or group < 1 or attention.get("window_length"):
            raise UnknownShape("block_configs with attention in a form that is not known")
        layers.append((None, 2 * (heads // group) * size))
    return _gather(layers)


# ---------------------------------------------------------------- kinds of layers


def layer_count(config: Config) -> int:
    """Layers of the model; UnknownShape where neither a number nor a list of them is given."""
    given = config.size("layers")
    for key in ("layers_block_type", "layer_types", "hybrid_override_pattern") if given is None else ():
        if isinstance(config.get(key), list | str):
            return len(config.get(key))
    return config.need("layers")


def _kinds(config: Config) -> list[str]:
    """What each layer keeps, from the first way of saying it that the file uses."""
    layers = layer_count(config)
    is_longcat = any("Longcat" in str(name) for name in config.outer.get("architectures") or ())
    if (is_longcat or config.family == "longcat_flash") and "num_hidden_layers" not in config:
        layers *= 2  # each of its layers has two attentions
    for rule in (_listed, _indexed, _periodic, _by_family, _windowed):
        kinds = rule(config, layers)
        if kinds is not None:
            return kinds
    strange = sorted(
        key
        for key, value in config.text.items()
        if value and any(part in key.lower() for part in MIXING) and key != "cross_attention_layers"
    )
    strange += [config.family] if any(part in config.family for part in MIXING) else []
    if strange and config.family not in ATTENTION_EVERYWHERE:
        raise UnknownShape(f"layers that are not all attention, in a way that is not known ({', '.join(strange[:3])})")
    crossed = set(config.get("cross_attention_layers") or ())  # of an image's tokens, not of the text's
    sparse = config.get("index_head_dim") and config.get("kv_lora_rank")
    return [STATE if layer in crossed else INDEXED if sparse else FULL for layer in range(layers)]


def _listed(config: Config, layers: int) -> list[str] | None:
    """A list of words, of numbers, or of letters: one for each layer."""
    for key in ("layer_types", "layers_block_type", "attention_layers"):
        words = config.get(key)
        if isinstance(words, list):
            unknown = sorted({str(word) for word in words} - KINDS.keys())
            if unknown:
                raise UnknownShape(f"layers of kind {unknown[0]!r} are not known here")
            kinds = [KINDS[word] for word in words]
            break
    else:
        lettered = _lettered(config, layers)
        if lettered is None:
            return None
        kinds = lettered
    if len(kinds) < layers:
        raise UnknownShape(f"the kinds of {len(kinds)} layers of {layers} are given")
    return kinds[:layers]


def _lettered(config: Config, layers: int) -> list[str] | None:
    if isinstance(config.get("hybrid_override_pattern"), str):  # Nemotron-H: M a state space, * attention, - and E MLPs
        letters = config.get("hybrid_override_pattern").replace("|", "")
        if set(letters) - set("M*-E"):
            raise UnknownShape(f"hybrid_override_pattern has letters that are not known: {letters[:40]}")
        return [FULL if letter == "*" else STATE for letter in letters]
    if isinstance(config.get("attn_type_list"), list):  # MiniMax-01: 1 softmax attention, 0 lightning attention
        return [FULL if number == 1 else STATE for number in config.get("attn_type_list")]
    if isinstance(config.get("hybrid_layer_pattern"), list):  # MiMo-V2: 1 a window
        return [SLIDING if number == 1 else FULL for number in config.get("hybrid_layer_pattern")]
    if isinstance(config.get("block_types"), list) and config.family == "recurrent_gemma":  # a pattern that is repeated
        words, many = config.get("block_types"), layers
        return [SLIDING if words[layer % len(words)] == "attention" else STATE for layer in range(many)]
    return None


def _indexed(config: Config, layers: int) -> list[str] | None:
    """Numbers of the layers that have attention."""
    inner = config.get("linear_attn_config")
    if isinstance(inner, dict) and isinstance(inner.get("full_attn_layers"), list):  # Kimi Linear; counted from 1
        chosen = {number - 1 for number in inner["full_attn_layers"]}
    else:
        names = ("full_attn_idxs", "attn_layer_indices", "hybrid_layer_ids", "attn_layer_idx")  # LFM2, Bamba, Zamba2
        key = next((name for name in names if isinstance(config.get(name), list)), None)
        if key is None:
            return None
        chosen = set(config.get(key))
    return [FULL if layer in chosen else STATE for layer in range(layers)]


def _periodic(config: Config, layers: int) -> list[str] | None:
    """Attention in every n-th layer, something without a growing cache in the others."""
    if isinstance(config.get("attn_layer_period"), int):  # Jamba, Zamba
        period, offset = config.get("attn_layer_period"), config.get("attn_layer_offset") or 0
        if config.family == "zamba":  # counts from its fourth layer, and the third has attention
            chosen = {2, *range(3 + offset, layers, period)}
            return [FULL if layer in chosen else STATE for layer in range(layers)]
        return [FULL if layer % period == offset else STATE for layer in range(layers)]
    group = config.get("layer_group_size")
    if isinstance(group, int) and group > 1:  # Ring-linear, Ling 2.5: the last of a group, and what is left of one
        whole = layers // group * group
        return [STATE if (layer + 1) % group and layer < whole else FULL for layer in range(layers)]
    if config.get("use_cla"):  # Hunyuan-Large: the first of a group; the others read its cache
        return [STATE if layer % config.get("cla_share_factor") else FULL for layer in range(layers)]
    by_class = 4 if config.family.startswith(("qwen3_next", "qwen3_5")) else None
    every = config.get("full_attention_interval", by_class)
    if isinstance(every, int) and every > 0:
        return [STATE if (layer + 1) % every else FULL for layer in range(layers)]
    return None


def _by_family(config: Config, layers: int) -> list[str] | None:
    """What a family's class does where the file says nothing."""
    family = config.family
    if family == "minimax":  # and not minimax_m2
        return [STATE if layer % 2 else FULL for layer in range(layers)]
    if family == "llama4_text":
        no_rope, step = config.get("no_rope_layers"), config.get("no_rope_layer_interval", 4)
        ropes = no_rope or [(layer + 1) % step != 0 for layer in range(layers)]
        return [CHUNKED if rope else FULL for rope in ropes[:layers]]
    # name of the key, layers to a pattern by class, and whether the last of a pattern is the full one
    patterns = {
        "gemma2": (None, 2), "vaultgemma": (None, 2), "gpt_oss": (None, 2), "gemma3n_text": (None, 5),
        "gemma3_text": ("sliding_window_pattern", 6), "gemma4_text": (None, 6),
        "cohere2": ("sliding_window_pattern", 4), "olmo3": (None, 4), "exaone4": ("sliding_window_pattern", 4),
        "exaone_moe": ("sliding_window_pattern", 4),
        "afmoe": ("global_attn_every_n_layers", 4),
    }  # fmt: skip
    if family not in patterns:
        return None
    key, length = patterns[family]
    if key == "sliding_window_pattern":
        length = config.get(key) or config.get(f"_{key}") or length
    elif key:
        length = config.get(key) or length
    if isinstance(length, str):  # EXAONE: "LLLG"
        return [
            FULL if length[layer % len(length)] == "G" or layer == layers - 1 else SLIDING for layer in range(layers)
        ]
    return [SLIDING if (layer + 1) % length else FULL for layer in range(layers)]


def _windowed(config: Config, layers: int) -> list[str] | None:
    """A window in all layers, or from one layer on."""
    limit = config.get("sliding_window", 4096 if config.family == "mistral" else None)
    if "use_sliding_window" in config or config.family.startswith("qwen"):
        if not config.get("use_sliding_window") or not limit:
            return None
        first = config.get("max_window_layers", 0) if "max_window_layers" in config else 0
        return [SLIDING if layer >= first else FULL for layer in range(layers)]
    if not limit or (isinstance(limit, int) and limit >= config.get("max_position_embeddings", math.inf)):
        return None  # wider than any request
    # Classes that give every layer the window
    if config.family in ("mistral", "ministral", "mixtral", "phi3", "starcoder2", "llama", "moshi"):
        return [SLIDING] * layers
    raise UnknownShape(f"a sliding_window of {limit}, and nothing says which layers of {config.family!r} have it")
