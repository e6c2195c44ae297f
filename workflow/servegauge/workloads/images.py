"""Images of vision requests: made from the workload's seed, a few coarse squares of colour, as PNG in a `data:` URL.

A server decodes, scales and encodes an image whatever is on it, so what is on it is small to send: no photograph is
needed, and none is in the repository. Each request has images of its own, so that no cache of encoded images helps.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from servegauge.workloads.prompts import Prompt

SQUARES = 8  # of an image, across and down


def with_images(prompts: Sequence[Prompt], images: Mapping[str, int], seed: int) -> list[Prompt]:
    """`prompts` as chat messages of a text and its images (`count` of `width` x `height` pixels, in front of it)."""
    made = []
    for number, prompt in enumerate(prompts):
        keys = ([seed, number, place] for place in range(images.get("count", 1)))
        urls = [data_url(images["width"], images["height"], key) for key in keys]
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        message = {"role": "user", "content": [*parts, {"type": "text", "text": prompt.text}]}
        made.append(replace(prompt, messages=json.dumps([message], ensure_ascii=False)))
    return made


def data_url(width: int, height: int, key: Sequence[int]) -> str:
    """A PNG of this size in RGB as a `data:` URL; the same bytes for the same `key`."""
    squares = np.random.default_rng(list(key)).integers(0, 256, (SQUARES, SQUARES, 3), np.uint8)
    rows, columns = (np.arange(size) * SQUARES // size for size in (height, width))
    return f"data:image/png;base64,{base64.b64encode(png(squares[rows][:, columns])).decode()}"


def png(pixels: np.ndarray) -> bytes:
    """`pixels` (height, width, 3), uint8, as a PNG file (ISO 15948): each line behind a byte that says unfiltered."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits a channel, truecolour
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
