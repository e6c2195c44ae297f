"""Bytes of weights from the files that hold them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from servegauge.inputs.weight_files import gguf_bytes, stored_tensors


def _safetensors(path: Path, shapes: dict[str, tuple[int, int]]) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (rows, columns) in shapes.items():
        size = rows * columns * 2
        header[name] = {"dtype": "F16", "shape": [rows, columns], "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def test_weights_are_read_from_the_files_where_there_are_any(tmp_path: Path) -> None:
    assert stored_tensors(tmp_path) is None
    _safetensors(tmp_path / "model-1.safetensors", {"a": (10, 10), "b": (5, 2)})
    _safetensors(tmp_path / "model-2.safetensors", {"c": (100, 1)})
    assert stored_tensors(tmp_path).total == 2 * (100 + 10 + 100)
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 12345}, "weight_map": {}}')
    assert stored_tensors(tmp_path).total == 12345


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, struct.pack("<Q", 4) + b"oops"])
def test_a_damaged_file_is_no_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    assert stored_tensors(tmp_path) is None


def test_headers_count_before_an_index_whose_total_is_another(tmp_path: Path) -> None:
    """Indexes of quantized models keep the total of the model that they were made of."""
    _safetensors(tmp_path / "model-1.safetensors", {"a": (10, 10)})
    index = {"metadata": {"total_size": 99999}, "weight_map": {"a": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert stored_tensors(tmp_path).total == 200
    index["weight_map"]["b"] = "model-2.safetensors"  # which is not here yet
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert stored_tensors(tmp_path).total == 99999
    index["metadata"]["total_size"] = 0
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert stored_tensors(tmp_path) is None


def test_the_same_weights_in_another_layout_and_adapters_are_not_counted(tmp_path: Path) -> None:
    for name in ("model", "consolidated", "adapter_model"):
        _safetensors(tmp_path / f"{name}.safetensors", {"a": (10, 10)})
    assert stored_tensors(tmp_path).total == 200
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "adapter_model.safetensors").unlink()
    assert stored_tensors(tmp_path).total == 200, "a folder in Mistral's layout alone"


@pytest.mark.parametrize(
    "extra",
    ["model.layers.2.mlp.up_proj.weight", "mtp.fc.weight", "model.mtp_layers.0.x", "talker.model.layers.0.x",
     "model.language_model.layers.2.x", "language_model.model.layers.2.x"],
)  # fmt: skip
def test_layers_that_only_guess_ahead_are_not_counted(tmp_path: Path, extra: str) -> None:
    tensors = {"model.layers.0.a": (10, 10), "model.layers.1.a": (10, 10), "vision.encoder.layers.30.a": (1, 1)}
    _safetensors(tmp_path / "model.safetensors", {**tensors, extra: (50, 50)})
    assert stored_tensors(tmp_path, layers=2).total == 402


def test_all_parts_of_a_gguf_model_count(tmp_path: Path) -> None:
    for part, size in ((1, 10), (2, 20), (3, 5)):
        (tmp_path / f"m-0000{part}-of-00003.gguf").write_bytes(bytes(size))
    assert gguf_bytes(tmp_path / "m-00001-of-00003.gguf") == 35
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    assert gguf_bytes(tmp_path / "m-00001-of-00003.gguf") is None
    assert gguf_bytes(tmp_path / "m.gguf") is None


def test_32_bit_floats_are_told_apart(tmp_path: Path) -> None:
    header = {
        "a": {"dtype": "F32", "shape": [10], "data_offsets": [0, 40]},
        "b": {"dtype": "BF16", "shape": [10], "data_offsets": [40, 60]},
    }
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(60))
    assert stored_tensors(tmp_path) == (60, 40)
