"""Public models: parameters as their published classes have them, caches by stated formulas, null where unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servegauge.inputs.model_shape import UnknownShape, from_config

HERE = Path(__file__).parent / "public_models"
SIZES: list[dict[str, Any]] = json.loads((HERE / "sizes.json").read_text())
CACHES: list[dict[str, Any]] = json.loads((HERE / "caches.json").read_text())


def named(models: list[dict[str, Any]]) -> dict[str, Any]:
    return {"argvalues": models, "ids": [model["name"] for model in models]}


def test_the_table_has_at_least_forty_models_of_many_families() -> None:
    assert len(SIZES) >= 40
    assert len({model["config"]["model_type"] for model in SIZES}) >= 25


@pytest.mark.parametrize("model", **named(SIZES))
def test_parameters_and_cache_of_public_models(model: dict[str, Any]) -> None:
    shape = from_config(model["config"])
    assert shape.parameters == model["parameters"]
    assert shape.kv_bytes() == model["kv_bytes_per_token"], model["kv_from"]
    if "at_tokens" in model:
        assert shape.kv_bytes(model["at_tokens"]) == model["kv_bytes_at"], model["kv_at_from"]
    assert shape.known is model.get("operations_known", True)
    if not shape.known:
        with pytest.raises(UnknownShape, match="operations of"):
            shape.matrices()


@pytest.mark.parametrize("model", **named(CACHES))
def test_layers_that_are_not_all_attention_count_only_what_grows(model: dict[str, Any]) -> None:
    shape = from_config(model["config"])
    assert shape.kv_bytes() == model["kv_bytes_per_token"], model["kv_from"]
    if "at_tokens" in model:
        assert shape.kv_bytes(model["at_tokens"]) == model["kv_bytes_at"], model["kv_from"]
    assert (shape.kv_bytes() is None) == bool(shape.unknown_cache)
    assert shape.parameters is None
    assert shape.unknown_weights


PLAIN: dict[str, Any] = {
    "model_type": "novel", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "torch_dtype": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"layer_types": ["full_attention"] * 31 + ["telepathy"]}, "'telepathy' are not known"),
        ({"layer_types": ["full_attention"] * 5}, "5 layers of 32"),
        ({"mamba_d_state": 16}, "not all attention, in a way that is not known (mamba_d_state)"),
        ({"linear_num_value_heads": 8}, "not all attention"),
        ({"sliding_window": 4096}, "nothing says which layers"),
        ({"hybrid_override_pattern": "M?M*"}, "letters that are not known"),
        ({"block_configs": [{"attention": {"n_heads_in_group": None}}]}, "in a form that is not known"),
        ({"layer_types": ["indexed_attention"] * 32}, "without an index_head_dim"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
    ],
)
def test_what_is_said_in_a_way_that_is_not_known_is_null_with_the_reason(more: dict[str, Any], said: str) -> None:
    shape = from_config({**PLAIN, **more})
    assert shape.kv_bytes() is None
    assert said in (shape.unknown_cache or "")
    assert not shape.known


def test_a_novel_family_of_plain_attention_has_a_cache() -> None:
    assert from_config(PLAIN).kv_bytes(10) == 10 * 32 * 2 * 8 * 128 * 2
    assert from_config({**PLAIN, "sliding_window": 4096, "use_sliding_window": False}).kv_bytes() == 131072


def test_a_window_from_one_layer_on() -> None:
    config = {
        **PLAIN,
        "model_type": "qwen2",
        "sliding_window": 100,
        "use_sliding_window": True,
        "max_window_layers": 24,
    }
    assert from_config(config).kv_bytes(1000, "int8") == 2048 * (24 * 1000 + 8 * 100)


def test_the_families_default_counts_where_the_file_does_not_say_whether_it_is_tied() -> None:
    gemma = {**PLAIN, "model_type": "gemma", "head_dim": 256}
    head = 32000 * 4096
    assert from_config({**gemma, "tie_word_embeddings": False}).parameters == from_config(gemma).parameters + head
    llama = {**PLAIN, "model_type": "llama"}
    assert from_config({**llama, "tie_word_embeddings": True}).parameters == from_config(llama).parameters - head
    outside = {"model_type": "llava", "tie_word_embeddings": True, "text_config": llama}
    assert from_config(outside).parameters == from_config(llama).parameters - head, "said beside the language part"


@pytest.mark.parametrize("nest", ["text_config", "llm_config", "language_config"])
def test_language_parts_by_the_names_that_are_in_use(nest: str) -> None:
    inner = {**PLAIN, "model_type": "qwen2"}
    shape = from_config({"model_type": "chimera", nest: inner, "vision_config": {"hidden_size": 1}})
    assert (shape.parameters, shape.whole) == (from_config(inner).parameters, False)
    deeper = {"model_type": "omni", "thinker_config": {"model_type": "omni_thinker", "text_config": inner}}
    assert from_config(deeper).family == "qwen2"


def test_a_nested_part_that_says_only_what_differs_from_its_class() -> None:
    llava = {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}
    assert from_config(llava).parameters == 6_738_415_616 + 64 * 2 * 4096, "Vicuna 7B with 64 more tokens"
    with pytest.raises(UnknownShape, match="no 'num_hidden_layers'"):
        from_config({"model_type": "llama"})


@pytest.mark.parametrize(("name", "key"), [("DeepSeek-V3", "attention_bias"), ("ERNIE-4.5-21B-A3B", "use_bias")])
def test_biases_that_are_not_described_are_no_parameters(name: str, key: str) -> None:
    config = next(model["config"] for model in SIZES if model["name"] == name)
    shape = from_config({**config, key: True})
    assert (shape.parameters, "biases" in (shape.unknown_weights or "")) == (None, True)
    assert shape.kv_bytes() == from_config(config).kv_bytes()


def test_experts_that_are_named_in_an_unknown_way_are_not_none() -> None:
    """A study that spreads experts must not be told that there are none."""
    assert from_config(PLAIN).experts == 0
    assert from_config({**PLAIN, "expert_count_per_block": [4, 8]}).experts is None
    assert from_config({**PLAIN, "moe_num_experts": 64}).experts == 64


@pytest.mark.parametrize("config", [[], "x", {}, {"text_config": {}}, {"num_hidden_layers": "many", "hidden_size": 1}])
def test_a_file_that_is_no_model_is_refused(config: Any) -> None:
    with pytest.raises(UnknownShape):
        from_config(config)


@pytest.mark.parametrize("bad", [None, [], "x", 0, -1, {}, [1, 2], 1.5, True])
@pytest.mark.parametrize("model", **named([*SIZES[::9], *CACHES]))
def test_a_value_of_another_kind_is_null_and_no_crash(model: dict[str, Any], bad: Any) -> None:
    for key in model["config"]:
        try:
            shape = from_config({**model["config"], key: bad})
        except UnknownShape:
            continue
        assert (shape.kv_bytes(10) is None) == bool(shape.unknown_cache)
        assert (shape.expert_parameters is None) == bool(shape.unknown_weights)
