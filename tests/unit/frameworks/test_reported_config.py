"""Evidence against what was asked."""

from __future__ import annotations

from typing import Any

import pytest

from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks.base import Evidence
from servegauge.frameworks.reported_config import evidence_flags


def launch(**options: Any) -> Launch:
    return Launch("any", {"name": "m"}, {"name": "p"}, Layout(tp=2), options=options)


def test_a_server_that_does_what_was_asked_has_no_flag() -> None:
    asked = launch(context_tokens=4096, dtype="float16", kv_cache_dtype="auto", prefix_cache=False, memory_fraction=0.9)
    said = {"context_tokens": 4096, "dtype": "half", "kv_cache_dtype": "bfloat16", "prefix_cache": False, "tp": 2}
    assert evidence_flags(asked, Evidence(effective=said, kv_blocks=256, kv_block_tokens=16)) == []


@pytest.mark.parametrize(
    ("asked", "said", "words"),
    [
        ({"context_tokens": 4096}, {"context_tokens": 2048}, "context_tokens: asked for 4096, the server says 2048"),
        ({"dtype": "bfloat16"}, {"dtype": "float16"}, "dtype: asked for bfloat16"),
        ({"prefix_cache": False}, {"prefix_cache": True}, "prefix_cache: asked for False, the server says True"),
        ({"quantization": "none"}, {"quantization": "fp8"}, "quantization"),
        ({}, {"tp": 1}, "tp: asked for 2, the server says 1"),
    ],
)
def test_each_difference_is_a_flag(asked: dict, said: dict, words: str) -> None:
    flags = evidence_flags(launch(**asked), Evidence(effective=said))
    assert [flag["flag"] for flag in flags] == ["server_differs"]
    assert words in flags[0]["detail"]


def test_a_cache_that_cannot_hold_one_request_is_a_flag() -> None:
    flags = evidence_flags(launch(context_tokens=4096), Evidence(kv_blocks=10, kv_block_tokens=16))
    assert [(flag["flag"], flag["value"], flag["threshold"]) for flag in flags] == [("kv_cache_small", 160, 4096)]


def test_what_the_server_does_not_say_is_no_difference() -> None:
    assert evidence_flags(launch(context_tokens=4096, seed=1), Evidence()) == []
