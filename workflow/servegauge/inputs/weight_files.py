"""Bytes of a model's weights from the files that hold them: safetensors headers, or the sizes of GGUF files.

What a server leaves on the disk does not count: the same weights once more in another layout, an adapter beside the
model, extra layers that only guess tokens ahead, and parts of a model that speaks which make the sound.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any, NamedTuple

from servegauge.base.files import parse_json

INDEX = "model.safetensors.index.json"
LAYER = re.compile(r"(?:language_model\.)?model\.(?:language_model\.)?layers\.(\d+)\.")
APART = re.compile(r"(?:language_model\.|model\.)*mtp(?:_layers|_block)?\.|talker\.|token2wav\.|code2wav\.")
# Mistral's own layout of the same weights, and adapters
BESIDE = ("consolidated", "adapter_model")


class Stored(NamedTuple):
    """Bytes of all tensors, and of those in 32-bit floats, which engines make 16 bits wide; None: it is unknown."""

    total: int
    wide: int | None


def stored_tensors(folder: Path, layers: int | None = None) -> Stored | None:
    """Bytes of a safetensors model's tensors; None where its files are not there or are damaged.

    From the headers of its files, else from its index. `layers`: what config.json says; tensors of later layers (of
    multi-token prediction) are not counted from headers.
    """
    index = folder / INDEX
    try:
        if not index.is_file():
            found = sorted(folder.glob("*.safetensors"))
            files = [path for path in found if not path.name.startswith(BESIDE)] or found
        else:
            about = parse_json(index.read_text(encoding="utf-8"))
            files = [folder / name for name in sorted(set(about.get("weight_map", {}).values()))]
            if not files or not all(path.is_file() for path in files):
                total = int(about["metadata"]["total_size"])
                return Stored(total, None) if total > 0 else None  # some tools write 0
        sizes = [_counted(path, layers) for path in files]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None
    return Stored(sum(total for total, _ in sizes), sum(wide for _, wide in sizes)) if sizes else None


def _counted(path: Path, layers: int | None) -> tuple[int, int]:
    """(all bytes, those in 32-bit floats) of one safetensors file: 8 bytes length, then a JSON header with offsets."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > 1 << 28:
            raise ValueError(f"{path}: a header of {length} bytes")
        header: dict[str, Any] = parse_json(file.read(length))
    total = wide = 0
    for name, entry in header.items():
        if name != "__metadata__" and _runs(name, layers):
            start, end = entry["data_offsets"]
            total += end - start
            wide += end - start if entry.get("dtype") == "F32" else 0
    return total, wide


def _runs(tensor: str, layers: int | None) -> bool:
    """Whether a tensor belongs to the model proper."""
    layer = LAYER.match(tensor)
    return not APART.match(tensor) and (layer is None or layers is None or int(layer[1]) < layers)


def gguf_bytes(path: Path) -> int | None:
    """Bytes of a GGUF model, all its parts where `path` is the first of several; None where one is not there."""
    parts = [path]
    split = re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})\.gguf", path.name)
    if split:
        parts = [path.with_name(f"{split[1]}{n + 1:05}-of-{split[3]}.gguf") for n in range(int(split[3]))]
    return sum(part.stat().st_size for part in parts) if all(part.is_file() for part in parts) else None
