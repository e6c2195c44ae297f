"""Reading the model's files from where the platform keeps them, cold and warm.

Cold means: not in this node's page cache, which is emptied for the file with posix_fadvise and checked with mincore. A
network file system's own servers may still hold it; a cold number is a ceiling for them, not a floor.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Wrong, per_second
from servegauge.probes.harness.stats import Effort, repeat

BLOCK = 4 << 20
MODEL_FILES = ("*.safetensors", "*.gguf", "*.bin", "*.pt")
STILL_CACHED = 0.02  # share of pages that may stay behind in a file called cold
PAGE = mmap.PAGESIZE


class Storage(Probe):
    name = "storage"
    title = "Storage"
    units: ClassVar = {"bandwidth_gb_s": "GB/s"}
    primary = ("bandwidth_gb_s",)
    one_thread = True
    measures = "reading the model's files where the platform keeps them, cold and warm"

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return "each server's start"

    def cases(self, context: Context) -> Iterator[Case]:
        limit = context.sizes(1 << 20, 64 << 20, 4 << 30)
        for model, file in _files(context):
            size = min(file.stat().st_size, limit)
            for state in ("cold", "warm"):
                about = {"operation": "read", "state": state, "model": model, "size_bytes": size}
                yield Case(about, "bandwidth_gb_s", partial(_read, file, size, state, context.effort))


def _files(context: Context) -> list[tuple[str, Path]]:
    """(model's name, its largest file); where no model is at hand, a file made in the platform's scratch folder."""
    found = []
    for model in context.models:
        source = Path(model.get("source") or "")
        files = [source] if source.is_file() else [file for pattern in MODEL_FILES for file in source.glob(pattern)]
        if model.get("source") and files:
            found.append((str(model["name"]), max(files, key=lambda file: file.stat().st_size)))
    return found or [("scratch file", _made(context))]


def _made(context: Context) -> Path:
    size = context.sizes(1 << 20, 64 << 20, 1 << 30)
    context.scratch.mkdir(parents=True, exist_ok=True)
    path = context.scratch / "storage-probe.bin"
    if not path.exists() or path.stat().st_size != size:
        block = os.urandom(1 << 20)
        with path.open("wb") as file:
            for _ in range(size >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    return path


def resident(handle: int, size: int) -> float:
    """Share of the file's first `size` bytes that the page cache holds, from mincore(2)."""
    pages = (size + PAGE - 1) // PAGE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap for mincore")
    try:
        vector = (ctypes.c_ubyte * pages)()
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), vector) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return sum(flag & 1 for flag in bytes(vector)) / pages
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


def _read(file: Path, size: int, state: str, effort: Effort) -> Measured:
    handle = os.open(file, os.O_RDONLY)
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    try:
        expected = _pass(handle, size, view)[1]  # also makes the file warm

        def sample() -> float:
            if state == "cold":
                os.fsync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                share = resident(handle, size)
                if share > STILL_CACHED:
                    raise Skip(f"{share:.0%} of {file.name} stays in memory after POSIX_FADV_DONTNEED (tmpfs?)")
            return _pass(handle, size, view, checksum=False)[0]

        seconds = repeat(sample, effort)
        if _pass(handle, size, view)[1] != expected:
            raise Wrong(f"two reads of {file.name} gave different bytes")
        return Measured("bandwidth_gb_s", per_second(size, seconds, 1e9), {"file": file.name}, True)
    finally:
        os.close(handle)


def _pass(handle: int, size: int, view: memoryview, checksum: bool = True) -> tuple[float, int]:
    """(seconds, CRC-32 or 0) of one sequential read of `size` bytes."""
    crc, offset = 0, 0
    begin = time.perf_counter()
    while offset < size:
        got = os.preadv(handle, [view[: min(BLOCK, size - offset)]], offset)
        if got == 0:
            raise EOFError(f"the file ended after {offset} of {size} bytes")
        if checksum:
            crc = zlib.crc32(view[:got], crc)
        offset += got
    return time.perf_counter() - begin, crc
