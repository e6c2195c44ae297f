"""A model without weights: python make_models.py FOLDER TOKENIZER_FOLDER, the latter of the tiny model."""

import json
import shutil
import sys
from pathlib import Path

# Qwen3-8B's public shape; the vocabulary is the tiny model's, so that every token has a text.
SHAPE = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 4096, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288,
    "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "rope_scaling": None,
    "hidden_act": "silu", "tie_word_embeddings": False, "attention_bias": False, "attention_dropout": 0.0,
    "initializer_range": 0.02, "use_cache": True, "sliding_window": None, "use_sliding_window": False,
    "max_window_layers": 36, "bos_token_id": 1, "eos_token_id": 2, "dtype": "bfloat16",
}  # fmt: skip

folder, tokenizer = Path(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
for file in tokenizer.glob("tokenizer*.json"):
    shutil.copy(file, folder)
vocabulary = json.loads((tokenizer / "config.json").read_text(encoding="utf-8"))["vocab_size"]
(folder / "config.json").write_text(json.dumps(SHAPE | {"vocab_size": vocabulary}, indent=1) + "\n", encoding="utf-8")
