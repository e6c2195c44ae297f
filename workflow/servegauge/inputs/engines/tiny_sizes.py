"""Dimensions of the random-weight models. Standard library only: two environments import it."""

from __future__ import annotations

from dataclasses import dataclass

CONTEXT = 8192  # longest prompt plus output, in tokens


@dataclass(frozen=True)
class Size:
    """Dimensions of a Llama: hidden and feed-forward width, layers, query and key/value heads, width of a head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    ffn: int


SIZES = {
    "tiny": Size(hidden=256, layers=4, heads=4, kv_heads=2, head=64, ffn=704),  # 19 million parameters, 39 MB
    "small": Size(hidden=640, layers=12, heads=10, kv_heads=5, head=64, ffn=1792),  # 96 million parameters, 190 MB
}
