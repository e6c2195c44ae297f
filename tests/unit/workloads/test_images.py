"""Images of vision requests: whole PNGs of the asked size, the same for a seed, in the parts of a chat message."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from servegauge.base.errors import UserError
from servegauge.contract.spec import Load
from servegauge.instrument.openai_api import body_of
from servegauge.plan import expand
from servegauge.workloads.compile import compile_workload, read_workload
from servegauge.workloads.images import SQUARES, data_url, png
from tests.unit.study_tree import Tree, tree
from tests.unit.workloads.test_compile import root, workload

__all__ = ["root", "tree"]

SPEC = {
    "name": "see", "kind": "synthetic", "input_tokens": 12, "output_tokens": 4,
    "images": {"count": 2, "width": 30, "height": 20},
}  # fmt: skip


def decoded(data: bytes) -> np.ndarray:
    """Pixels of a PNG that we wrote, after every check sum was checked: (height, width, 3)."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        content = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(name + content)
        chunks[name], at = content, at + 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (8, 2, [0, 0, 0])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any(), "unfiltered"
    return lines[:, 1:].reshape(height, width, 3)


def test_what_is_written_is_what_is_read() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decoded(png(pixels)), pixels)


def test_an_image_is_of_its_size_and_of_its_seed() -> None:
    url = data_url(448, 320, [1, 2])
    assert url == data_url(448, 320, [1, 2])
    assert url != data_url(448, 320, [1, 3])
    pixels = decoded(base64.b64decode(url.removeprefix("data:image/png;base64,")))
    assert pixels.shape == (320, 448, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > SQUARES * SQUARES // 2
    assert len(url) < 20_000, "small to send, whatever its size"


def test_requests_carry_images_of_their_own_before_their_text(root: Path) -> None:
    one = workload(Load(rate_rps=9, requests=5, endpoint="chat"), SPEC)
    compile_workload(one, root, root / "out")
    rows = read_workload(root / "out" / one.id).to_pylist()
    seen = set()
    for row in rows:
        body = body_of(Load(endpoint="chat"), "m", row["prompt"], row["messages"], 4, {})
        (message,) = body["messages"]
        first, second, text = message["content"]
        assert text == {"type": "text", "text": row["prompt"]}
        for part in (first, second):
            url = part["image_url"]["url"]
            assert part["type"] == "image_url"
            assert decoded(base64.b64decode(url.partition(",")[2])).shape == (20, 30, 3)
            seen.add(url)
    assert len(seen) == 2 * len(rows)


def test_the_texts_are_those_of_the_set_without_images(root: Path) -> None:
    plain = {name: value for name, value in SPEC.items() if name != "images"}
    both = []
    for spec in (SPEC, plain):
        one = workload(Load(rate_rps=9, requests=5), spec)
        compile_workload(one, root, root / "out")
        both.append(read_workload(root / "out" / one.id))
    assert both[1]["messages"].null_count == both[1].num_rows
    assert set(both[0]["prompt_tokens"].to_pylist()) == set(both[1]["prompt_tokens"].to_pylist()) == {12}


def test_images_need_the_chat_endpoint_and_a_set_that_is_drawn(tree: Tree) -> None:
    spec = {key: value for key, value in SPEC.items() if key != "name"} | {"description": "x"}
    tree.write("config/prompts/chat.yaml", spec)
    plan = expand.expand(tree.study(matrix={"framework": "fast"}))
    assert {one.skipped for one in plan.cells} == {
        "the prompts of chat have images, which only chat messages hold: set load.endpoint to chat"
    }
    plan = expand.expand(tree.study(matrix={"framework": "fast"}, load={"endpoint": "chat"}))
    assert {one.skipped for one in plan.cells} == {None}
    tree.write("config/prompts/chat.yaml", {**spec, "kind": "jsonl", "path": "x", "how_to_get": "ask"})
    with pytest.raises(UserError, match="kind"):
        tree.study()


def test_the_messages_are_json_that_a_server_reads(root: Path) -> None:
    one = workload(Load(rate_rps=9, requests=3, endpoint="chat"), SPEC)
    compile_workload(one, root, root / "out")
    for text in read_workload(root / "out" / one.id)["messages"].to_pylist():
        assert [message["role"] for message in json.loads(text)] == ["user"]
