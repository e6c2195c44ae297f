"""Cutting GPU code down to one architecture: made-up shared objects, read back by other code than what cuts them."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow
import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "envs" / "pack" / "prune.py"
PTX, CUBIN = 1, 2
SPECIFIC = 0x100000
ZSTD = 0x8000


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


prune = loaded(SCRIPT)


def elf(sections: dict[str, bytes]) -> bytes:
    """An ELF file of 64 bit with these sections, and one with their names."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in [*sections, ".names"])
    rows, body = [bytes(64)], b""
    for name, content in {**sections, ".names": names}.items():
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        rows.append(struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, 64 + len(body), len(content), 0, 0, 8, 0))
        body += content + bytes(-len(content) % 8)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(rows), len(rows) - 1)
    return head + body + b"".join(rows)


def cubin(kernel: str, size: int = 64) -> bytes:
    return elf({f".text.{kernel}": kernel.encode()[:1] * size})


def entry(arch: int, payload: bytes, *, kind: int = CUBIN, flags: int = 0, packed: bool = False) -> bytes:
    whole = len(payload)
    if packed:
        payload, flags = pyarrow.Codec("zstd").compress(payload, asbytes=True), flags | ZSTD
    size, padding = len(payload), bytes(-len(payload) % 8)
    return (
        struct.pack(
            "<HHIQIIHHIIIQQQ",
            kind,
            0x101,
            64,
            size + len(padding),
            size if packed else 0,
            0,
            8,
            1,
            arch,
            0,
            0,
            flags,
            0,
            whole,
        )
        + payload
        + padding
    )


def container(*entries: bytes) -> bytes:
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, sum(map(len, entries))) + b"".join(entries)


def shared_object(path: Path, *containers: bytes) -> Path:
    path.write_bytes(elf({".nv_fatbin": b"".join(containers), ".data": b"what follows"}))
    return path


def archs(path: Path) -> list[list[tuple[int, int]]]:
    """Kind and architecture of the entries of each container, found by its magic number."""
    data, found = path.read_bytes(), []
    at = data.find(struct.pack("<I", 0xBA55ED50))
    while at >= 0:
        (size,) = struct.unpack_from("<Q", data, at + 8)
        place, inside = at + 16, []
        while place < at + 16 + size:
            kind, _, head, body = struct.unpack_from("<HHIQ", data, place)
            inside.append((kind, struct.unpack_from("<I", data, place + 28)[0]))
            place += head + body
        found.append(inside)
        at = data.find(struct.pack("<I", 0xBA55ED50), at + 16 + size)
    return found


def test_only_one_architecture_stays_and_nothing_moves(tmp_path: Path) -> None:
    many = [entry(80, cubin("a")), entry(90, cubin("b")), entry(90, cubin("c"), flags=SPECIFIC), entry(100, cubin("d"))]
    path = shared_object(tmp_path / "x.so", container(*many), container(entry(86, cubin("e")), entry(90, cubin("f"))))
    before = path.read_bytes()
    whole, left = prune.prune(path, 90)
    after = path.read_bytes()
    assert archs(path) == [[(CUBIN, 90), (CUBIN, 90)], [(CUBIN, 90)]]
    assert many[1] + many[2] in after
    assert whole == sum(map(len, many)) + len(entry(86, cubin("e"))) + len(entry(90, cubin("f")))
    assert left == len(many[1]) + len(many[2]) + len(entry(90, cubin("f")))
    assert len(after) == len(before)
    assert after.index(b"what follows") == before.index(b"what follows")
    second = struct.pack("<I", 0xBA55ED50)
    assert after.rindex(second) == before.rindex(second)


@pytest.mark.parametrize(
    ("entries", "arch", "left"),
    [
        ([(CUBIN, 80, 0), (CUBIN, 86, 0), (CUBIN, 90, 0)], 86, [(CUBIN, 86)]),
        ([(CUBIN, 80, 0), (CUBIN, 90, 0)], 86, [(CUBIN, 80)]),  # a cubin runs on later minor versions
        ([(CUBIN, 80, 0), (PTX, 80, 0), (PTX, 89, 0), (PTX, 100, 0)], 90, [(PTX, 89)]),
        ([(PTX, 80, 0), (CUBIN, 90, 0)], 90, [(CUBIN, 90)]),  # the driver takes machine code where it has it
        ([(CUBIN, 90, SPECIFIC), (PTX, 80, 0)], 90, [(CUBIN, 90)]),
        ([(CUBIN, 100, SPECIFIC), (CUBIN, 100, 0)], 103, [(CUBIN, 100)]),  # sm_100a runs on 10.0 alone
    ],
)
def test_what_a_gpu_would_run_stays(tmp_path: Path, entries: list, arch: int, left: list) -> None:
    made = [entry(number, cubin("k"), kind=kind, flags=flags) for kind, number, flags in entries]
    path = shared_object(tmp_path / "x.so", container(*made))
    prune.prune(path, arch)
    assert archs(path) == [left]


def test_a_container_for_other_architectures_keeps_its_smallest_entry(tmp_path: Path) -> None:
    path = shared_object(tmp_path / "x.so", container(entry(100, cubin("a", 512)), entry(120, cubin("b"))))
    prune.prune(path, 90)
    assert archs(path) == [[(CUBIN, 120)]]


@pytest.mark.parametrize("packed", [False, True])
def test_kernels_of_other_names_go(tmp_path: Path, packed: bool) -> None:
    wide = container(entry(80, cubin("small", 8)), entry(90, cubin("attention_256", 4096), packed=packed))
    path = shared_object(tmp_path / "x.so", wide, container(entry(80, cubin("q")), entry(90, cubin("attention_128"))))
    prune.prune(path, 90, "attention_(64|128)$")
    assert archs(path)[1] == [(CUBIN, 90)]
    assert len(archs(path)[0]) == 1
    assert b"a" * 4096 not in path.read_bytes()


def test_a_container_with_a_kernel_of_another_name_goes_as_a_whole(tmp_path: Path) -> None:
    mixed = elf({".text.attention_128": b"x" * 64, ".text.attention_256": b"y" * 64})
    path = shared_object(tmp_path / "x.so", container(entry(80, cubin("q", 8)), entry(90, mixed)))
    prune.prune(path, 90, "attention_(64|128)$")
    assert archs(path) == [[(CUBIN, 80)]]


def test_zeros_become_holes(tmp_path: Path) -> None:
    path = shared_object(tmp_path / "x.so", container(entry(80, cubin("a", 1 << 22)), entry(90, cubin("b"))))
    prune.prune(path, 90)
    assert path.stat().st_blocks * 512 < 1 << 20 < path.stat().st_size


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"\x01\x02\x03\x04" + bytes(28), "it begins with 0x4030201"),
        (container(struct.pack("<HHIQ", 7, 0, 64, 64) + bytes(112)), "kind 7"),
    ],
)
def test_what_is_not_understood_is_left_alone(tmp_path: Path, broken: bytes, message: str) -> None:
    path = shared_object(tmp_path / "x.so", container(entry(80, cubin("a")), entry(90, cubin("b"))), broken)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr
    assert "left as it is" in done.stderr
    assert path.read_bytes() == before
