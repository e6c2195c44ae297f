#!/usr/bin/env python3
"""Cut the GPU code in a shared object down to what one GPU architecture runs: python prune.py FILE... --arch 90.

A shared object of CUDA holds GPU code in its section `.nv_fatbin`: containers, one for each compiled source file, and
in a container one entry for each architecture, a cubin (machine code) or PTX (text that the driver compiles). Of each
container only the entries that the driver would take on the given architecture stay. They are moved to its beginning,
its size is corrected, and the rest becomes zeros, holes on the disk and next to nothing in an archive. Containers
stay where they are, and so do all symbols, relocations and registrations of kernels.

The layout is NVIDIA's and not documented; what is not understood is an error, and then the file stays as it was.
"""

from __future__ import annotations

import argparse
import mmap
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONTAINER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes of all entries
MAGIC = 0xBA55ED50
# kind, version, bytes of this header, bytes of the payload (padded), bytes if compressed, options, minor, major,
# architecture, offset and bytes of a name, flags, zero, bytes once decompressed
ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
PTX, CUBIN = 1, 2
LZ4, ZSTD, SPECIFIC = 0x2000, 0x8000, 0x100000  # flags; SPECIFIC: sm_90a, which runs on 9.0 alone
SECTION = struct.Struct("<IIQQQQIIQQ")


class NotUnderstood(Exception):
    """A file whose layout is not the one described above."""


@dataclass(frozen=True)
class Entry:
    """One architecture's code in a container; `at` and `size` in bytes, header included."""

    kind: int
    arch: int
    flags: int
    at: int
    size: int
    payload: bytes

    def runs_on(self, arch: int) -> bool:
        """Whether a GPU of compute capability `arch` (90: 9.0) can run this entry."""
        if self.flags & SPECIFIC:
            return self.arch == arch
        if self.kind == CUBIN:  # upwards only inside one major version
            return self.arch // 10 == arch // 10 and self.arch <= arch
        return self.arch <= arch

    def kernels(self) -> list[str]:
        """The mangled names of a cubin's kernels; PTX is not looked into."""
        if self.kind != CUBIN:
            return []
        return [name.removeprefix(".text.") for name in sections(self.payload) if name.startswith(".text.")]


def sections(elf: bytes | mmap.mmap) -> dict[str, tuple[int, int]]:
    """Name of each section -> its place in the file and its size, in bytes."""
    if elf[:5] != b"\x7fELF\x02":
        raise NotUnderstood("no ELF file of 64 bit")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    width, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    rows = [SECTION.unpack_from(elf, table + i * width) for i in range(count)]
    found = {}
    for name, _kind, _flags, _address, place, size, *_ in rows:
        start = rows[names][4] + name
        found[elf[start : elf.find(b"\0", start)].decode()] = (place, size)
    return found


def decompressed(payload: bytes, flags: int, packed: int, size: int) -> bytes:
    """An entry's payload as it is in memory; pyarrow is imported only where one is compressed."""
    if not flags & (LZ4 | ZSTD):
        return payload
    import pyarrow

    return pyarrow.Codec("zstd" if flags & ZSTD else "lz4_raw").decompress(payload[:packed], size, asbytes=True)


@dataclass(frozen=True)
class Container:
    """One compiled source file's code; `at`: its header, `start` and `size`: its entries, in bytes."""

    at: int
    start: int
    size: int
    entries: list[Entry]


def containers(data: bytes | mmap.mmap, at: int, end: int, *, names: bool = False) -> Iterator[Container]:
    """Each container between two places; with `names` the cubins' payloads too, without which they have no kernels."""
    while at + CONTAINER.size <= end:
        magic, _version, header, size = CONTAINER.unpack_from(data, at)
        if magic == 0:  # padding between containers
            at += 8
            continue
        place = at + header
        stop = place + size
        if magic != MAGIC or stop > end:
            raise NotUnderstood(f"no container of GPU code at byte {at}: it begins with {magic:#x}")
        container = Container(at, place, size, [])
        while place < stop:
            kind, _, head, body, packed, _, _, _, arch, _, _, flags, _, whole = ENTRY.unpack_from(data, place)
            if kind not in (PTX, CUBIN) or head < ENTRY.size or place + head + body > stop:
                raise NotUnderstood(f"no entry of a container at byte {place}: kind {kind}, {head} + {body} bytes")
            payload = b""
            if names and kind == CUBIN:
                payload = decompressed(data[place + head : place + head + body], flags, packed, whole)
            container.entries.append(Entry(kind, arch, flags, place, head + body, payload))
            place += head + body
        yield container
        at = stop


def kept(entries: list[Entry], arch: int, kernels: re.Pattern[str] | None) -> list[Entry]:
    """What stays of one container.

    The cubins for `arch` (sm_90 and sm_90a where both are there: which the driver takes is its own affair); without
    one the newest PTX that it could compile. Where `kernels` is given, a container of cubins that has a kernel with
    another name is not wanted. There, and where nothing runs on `arch`, the smallest entry stays:
    a container without any has not been tried on a GPU, and one for other architectures alone is common in wheels.
    """
    smallest = [min(entries, key=lambda entry: entry.size)] if entries else []
    runnable = [entry for entry in entries if entry.runs_on(arch)]
    cubins = [entry for entry in runnable if entry.kind == CUBIN]
    best = max((entry.arch for entry in cubins or runnable), default=None)
    stay = [entry for entry in cubins or runnable if entry.arch == best]
    if kernels and not all(kernels.search(name) for entry in stay for name in entry.kernels()):
        return smallest
    return stay or smallest


def prune(path: Path, arch: int, kernels: str | None = None) -> tuple[int, int]:
    """Cut `path` down to `arch` in place; bytes of GPU code before and after. NotUnderstood leaves it as it was."""
    wanted = re.compile(kernels) if kernels else None
    before = after = 0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        place, size = sections(data).get(".nv_fatbin", (0, 0))
        found = containers(data, place, place + size, names=wanted is not None)
        choices = [(one.at, one.start, one.size, _places(kept(one.entries, arch, wanted))) for one in found]
        for at, start, size, places in choices:  # all is understood before anything is written
            code = b"".join(data[first:last] for first, last in places)
            data[start : start + size] = code + bytes(size - len(code))
            struct.pack_into("<Q", data, at + 8, len(code))
            before, after = before + size, after + len(code)
    _make_holes(path)
    return before, after


def _places(entries: list[Entry]) -> list[tuple[int, int]]:
    """Where the entries lie: what is kept of each container, so that not all payloads are in memory at once."""
    return [(entry.at, entry.at + entry.size) for entry in entries]


def _make_holes(path: Path, block: int = 1 << 14) -> None:
    """Write the file anew without its blocks of zeros, so that it takes the space of what is left in it."""
    new = path.with_name(path.name + ".new")
    with path.open("rb") as source, new.open("wb") as target:
        while piece := source.read(block):
            if piece.count(0) == len(piece):
                target.seek(len(piece), os.SEEK_CUR)
            else:
                target.write(piece)
        target.truncate(source.tell())
    new.chmod(path.stat().st_mode)
    new.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="shared objects, changed in place")
    parser.add_argument("--arch", type=int, default=90, help="compute capability without its point (%(default)s)")
    parser.add_argument("--kernels", help="a regular expression: containers with a kernel that it does not find go too")
    arguments = parser.parse_args()
    for path in arguments.files:
        try:
            before, after = prune(path, arguments.arch, arguments.kernels)
        except (OSError, NotUnderstood, struct.error) as error:
            print(f"{path}: {error}; the file was left as it is", file=sys.stderr)
            return 2
        print(f"{path}: {before / 1e6:.1f} MB of GPU code, {after / 1e6:.1f} for {arguments.arch}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
