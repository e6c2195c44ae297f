"""Write a Llama with random weights twice from one seed: a Hugging Face folder and a GGUF file.

Real engines load it without a network and agree on its greedy tokens, so the whole pipeline runs on a machine without a
GPU or a model hub. Its text is gibberish: ask for `ignore_eos`. The tokenizer is the 32,000-piece SentencePiece
vocabulary that the Apache-2.0 package mistral-common ships.

Run by the interpreter of the environment `tiny-model`, as a file: it must not import servegauge, and the driver must
not import it. `models.build_model` is the caller. The same seed, size and lock give the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import tokenizers
from safetensors.numpy import save_file
from tiny_sizes import CONTEXT, SIZES, Size  # beside this file, which runs as a file

BOS, EOS, UNK = 1, 2, 0
ROPE_BASE, NORM_EPSILON, WEIGHT_STD = 10000.0, 1e-5, 0.05
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '[' + message['role'] + '] ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}"
)


def vocabulary() -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece model that mistral-common ships as `tokenizer.model.v1`."""
    spec = importlib.util.find_spec("mistral_common")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("mistral-common is missing; it is in envs/tiny-model.txt")
    return sentencepiece.SentencePieceProcessor(
        model_file=str(Path(spec.origin).parent / "data" / "tokenizer.model.v1")
    )


def weights(size: Size, vocabulary_size: int, seed: int) -> dict[str, np.ndarray]:
    """Random float16 tensors under Hugging Face's names; norms are ones. Order of drawing is part of the result."""
    draw = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (draw.standard_normal(shape, dtype=np.float32) * WEIGHT_STD).astype(np.float16)

    def ones() -> np.ndarray:
        return np.ones(size.hidden, np.float16)

    queries, keys = size.heads * size.head, size.kv_heads * size.head
    tensors = {
        "model.embed_tokens.weight": random(vocabulary_size, size.hidden),
        "lm_head.weight": random(vocabulary_size, size.hidden),
        "model.norm.weight": ones(),
    }
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}."
        tensors |= {
            f"{prefix}input_layernorm.weight": ones(),
            f"{prefix}self_attn.q_proj.weight": random(queries, size.hidden),
            f"{prefix}self_attn.k_proj.weight": random(keys, size.hidden),
            f"{prefix}self_attn.v_proj.weight": random(keys, size.hidden),
            f"{prefix}self_attn.o_proj.weight": random(size.hidden, queries),
            f"{prefix}post_attention_layernorm.weight": ones(),
            f"{prefix}mlp.gate_proj.weight": random(size.ffn, size.hidden),
            f"{prefix}mlp.up_proj.weight": random(size.ffn, size.hidden),
            f"{prefix}mlp.down_proj.weight": random(size.hidden, size.ffn),
        }
    return tensors


def fast_tokenizer(pieces: sentencepiece.SentencePieceProcessor) -> tokenizers.Tokenizer:
    """The same tokenizer as `pieces` in the `tokenizers` library's form.

    SentencePiece's BPE merges the neighbours whose joined piece has the best score, so the merge list is every way to
    cut a piece into two pieces, best joined score first.
    """
    size = pieces.get_piece_size()
    names = [pieces.id_to_piece(token) for token in range(size)]
    ids = {name: token for token, name in enumerate(names)}
    merges = []
    for name in names:
        cuts = [(name[:at], name[at:]) for at in range(1, len(name)) if name[:at] in ids and name[at:] in ids]
        cuts.sort(key=lambda cut: (ids[cut[0]], ids[cut[1]]))
        score = pieces.get_score(ids[name])
        merges += [(-score, cut) for cut in cuts]
    merges.sort(key=lambda merge: merge[0])  # stable: equal scores keep the order of the vocabulary
    model = tokenizers.models.BPE(
        ids, [cut for _, cut in merges], unk_token=names[UNK], fuse_unk=True, byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    special = [tokenizers.AddedToken(names[token], special=True, normalized=False) for token in (UNK, BOS, EOS)]
    tokenizer.add_special_tokens(special)
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    return tokenizer


def write_hf(
    folder: Path, size: Size, context: int, pieces: sentencepiece.SentencePieceProcessor, tensors: dict[str, np.ndarray]
) -> None:
    """Write the Hugging Face folder: config, tokenizer, weights."""
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": pieces.get_piece_size(),
        "hidden_size": size.hidden, "num_hidden_layers": size.layers, "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads, "head_dim": size.head, "intermediate_size": size.ffn,
        "max_position_embeddings": context, "rms_norm_eps": NORM_EPSILON, "rope_theta": ROPE_BASE, "hidden_act": "silu",
        "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "bos_token_id": BOS,
        "eos_token_id": EOS, "dtype": "float16", "torch_dtype": "float16",
    }  # fmt: skip
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast", **special, "model_max_length": context,
        "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    documents: dict[str, dict[str, Any]] = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": BOS, "eos_token_id": EOS},
        "tokenizer_config.json": tokenizer_config,
        "special_tokens_map.json": special,
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    fast_tokenizer(pieces).save(str(folder / "tokenizer.json"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_tensor(name: str, tensor: np.ndarray, size: Size) -> tuple[str, np.ndarray]:
    """A tensor's GGUF name and content: norms as float32, rotary rows reordered.

    Hugging Face rotates the two halves of a head, ggml rotates neighbours: row (half, i) of a head becomes row
    (i, half).
    """
    stem = name.removesuffix(".weight")
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        target = f"blk.{layer}.{GGUF_NAMES[part]}.weight"
    else:
        part, target = stem, f"{GGUF_NAMES[stem]}.weight"
    if part in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = tensor.shape[0] // size.head
        halves = tensor.reshape(heads, 2, size.head // 2, tensor.shape[1])
        tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
    elif tensor.ndim == 1:
        tensor = tensor.astype(np.float32)
    return target, np.ascontiguousarray(tensor)


def write_gguf(
    path: Path, size: Size, context: int, pieces: sentencepiece.SentencePieceProcessor, tensors: dict[str, np.ndarray]
) -> None:
    """Write the GGUF file with the same weights and tokenizer."""
    count = pieces.get_piece_size()

    def kind(token: int) -> gguf.TokenType:
        if pieces.is_unknown(token):
            return gguf.TokenType.UNKNOWN
        if pieces.is_control(token):
            return gguf.TokenType.CONTROL
        return gguf.TokenType.BYTE if pieces.is_byte(token) else gguf.TokenType.NORMAL

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(path.stem)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(count)
    writer.add_context_length(context)
    writer.add_embedding_length(size.hidden)
    writer.add_block_count(size.layers)
    writer.add_feed_forward_length(size.ffn)
    writer.add_head_count(size.heads)
    writer.add_head_count_kv(size.kv_heads)
    writer.add_key_length(size.head)
    writer.add_value_length(size.head)
    writer.add_rope_dimension_count(size.head)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(token).encode() for token in range(count)])
    writer.add_token_scores([pieces.get_score(token) for token in range(count)])
    writer.add_token_types([int(kind(token)) for token in range(count)])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNK)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, tensor in tensors.items():
        writer.add_tensor(*gguf_tensor(name, tensor, size))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--context", type=int, default=CONTEXT, help="longest prompt plus output, in tokens")
    parser.add_argument("--hf", type=Path, required=True, help="folder to make; must not exist")
    parser.add_argument("--gguf", type=Path, required=True, help="file to make")
    arguments = parser.parse_args()
    size, pieces = SIZES[arguments.size], vocabulary()
    tensors = weights(size, pieces.get_piece_size(), arguments.seed)
    write_hf(arguments.hf, size, arguments.context, pieces, tensors)
    write_gguf(arguments.gguf, size, arguments.context, pieces, tensors)
    print(f"{sum(tensor.size for tensor in tensors.values()) / 1e6:.1f} million parameters")


if __name__ == "__main__":
    main()
