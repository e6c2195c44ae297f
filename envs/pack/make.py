#!/usr/bin/env python3
"""Make the pack of an engine for GPU nodes without a network: python envs/pack/make.py FOLDER [--arch 90].

Fetches the wheels of sglang.txt beside it (pinned, hash-checked, for CPython 3.12), cuts their GPU
code down to one architecture, and writes archives that unpack.sh lays out on the node: see README.md beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import prune

HERE = Path(__file__).resolve().parent
LIMIT = 64 << 20  # bytes that all files together may have
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (34, 28, 27, 26, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64", "linux_x86_64"]
# Shared objects that stay, and what the names of their kernels must have; every other one that holds GPU code goes:
# FlashMLA, sparse attention, and the build of common_ops for other architectures.
# flash_ops: attention (FlashAttention 3) in bfloat16 with heads of 64 and 128, its combination of splits, its planning.
KEPT = {
    "sgl_kernel/sm90/common_ops.abi3.so": None,
    "sgl_kernel/spatial_ops.abi3.so": None,
    "sgl_kernel/flash_ops.abi3.so": r"FlashAttnFwdCombine|prepare_varlen|^_ZN3cub|ELi(64|128)ENS_10bfloat16_tEf",
}
# Not for a server of text: image and video generation, tests.
LEFT_OUT = [
    "sglang/multimodal_gen",
    "sglang/test",
    "sglang/srt/server",
    "triton_kernels/testing.py",
    "tvm_ffi/3rdparty",
]


PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


class Refused(Exception):
    """What cannot go on; one message for the user."""


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement).lower()


def wanted(lock: str, installed: str) -> str:
    """The lock's lines, hashes included, without what is installed there in the same version."""
    there = {(name_of(name), version) for name, _, version in (one.partition("==") for one in installed.split())}
    blocks = re.findall(r"^[A-Za-z0-9](?:.*\\\n)*.*", lock, re.MULTILINE)
    pinned = {block: PIN.match(block) for block in blocks}
    return "\n".join(block for block, pin in pinned.items() if pin and (name_of(pin[1]), pin[2]) not in there) + "\n"


def fetch(lock: str, folder: Path) -> list[Path]:
    """The wheels for CPython 3.12 on Linux; pip compares their hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "requirements.txt"
    file.write_text(lock, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--python-version", "3.12", "--implementation", "cp"]
    command += ["--abi", "cp312", "--abi", "abi3", "--abi", "none"]
    command += [word for platform in PLATFORMS for word in ("--platform", platform)]
    done = subprocess.run([*command, "--dest", str(folder), "-r", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise Refused(f"wheels could not be fetched; pip says:\n{done.stderr.strip()[-2000:]}")
    pins = {(name_of(name), version) for name, version in PIN.findall(lock)}
    wheels = {file: file.name.split("-")[:2] for file in sorted(folder.glob("*.whl"))}
    # A folder that is kept may hold wheels of other pins.
    return [file for file, (name, version) in wheels.items() if (name_of(name), version) in pins]


def lay_out(wheels: list[Path], site: Path) -> None:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    for left in LEFT_OUT:
        path = site / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.copytree(HERE / "sglang", site, dirs_exist_ok=True)


def cut(site: Path, arch: int) -> None:
    """Cut the GPU code of all shared objects; those that KEPT does not name are removed."""
    for path in sorted(site.rglob("*.so")):
        name = path.relative_to(site).as_posix()
        with path.open("rb") as file:
            gpu = ".nv_fatbin" in prune.sections(file.read())
        if not gpu:
            continue
        if name not in KEPT:
            print(f"{name}: left out ({path.stat().st_size / 1e6:.0f} MB)")
            path.unlink()
            continue
        before, after = prune.prune(path, arch, KEPT[name])
        print(f"{name}: {before / 1e6:.1f} MB of GPU code, {after / 1e6:.1f} of it for {arch}")
    missing = [name for name in KEPT if not (site / name).is_file()]
    if missing:
        raise Refused(f"the wheels lack {', '.join(missing)}: another version has other names, see KEPT in {__file__}")


def archive(folder: Path, file: Path) -> None:
    """One .tar.xz, the same bytes for the same content, holes kept."""
    with file.open("wb") as target:
        options = ["--sparse", "--sort=name", "--owner=0", "--group=0", "--mtime=2026-01-01", "-cf", "-", "."]
        first = subprocess.Popen(["tar", "-C", str(folder), *options], stdout=subprocess.PIPE)
        second = subprocess.run(["xz", "-T0", "-6"], stdin=first.stdout, stdout=target)
        if first.wait() or second.returncode:
            raise Refused(f"{file} could not be written")


def make(out: Path, arch: int, kernels: Path | None, wheels: Path | None) -> None:
    out.mkdir(parents=True, exist_ok=True)
    installed = (HERE / "installed.list").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="servegauge-pack-") as scratch:
        site = Path(scratch) / "site"
        lock = (HERE / "sglang.txt").read_text(encoding="utf-8")
        lay_out(fetch(wanted(lock, installed), wheels or Path(scratch) / "wheels"), site)
        cut(site, arch)
        if kernels:
            found = sorted(kernels.glob("*/*.so"))
            if not found:
                raise Refused(f"{kernels} holds no kernels; kernels.py makes them, see README.md")
            for path in found:
                target = site / "kernels" / path.parent.name / path.name
                target.parent.mkdir(parents=True)
                shutil.copy(path, target)
        archive(site, out / "sglang.tar.xz")
    for file in ("unpack.sh", "smoke.py"):
        shutil.copy(HERE / file, out / file)
    shutil.copytree(HERE / "overlay", out / "overlay", dirs_exist_ok=True)
    sums = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.glob("*.tar.xz"))}
    (out / "SHA256SUMS").write_text("".join(f"{sha}  {file.name}\n" for file, sha in sums.items()), encoding="utf-8")
    size = sum(Path(root, name).stat().st_size for root, _, names in os.walk(out) for name in names)
    print(f"{out}: {size / (1 << 20):.1f} MiB")
    if size > LIMIT:
        raise Refused(f"{out} has {size} bytes, more than {LIMIT}: take kernels out of KEPT in {__file__}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pack is written")
    parser.add_argument("--arch", type=int, default=90, help="compute capability without its point (%(default)s)")
    parser.add_argument(
        "--kernels", type=Path, help="folder of kernels.py: kernels that SGLang would compile at its start"
    )
    parser.add_argument("--wheels", type=Path, help="keep the wheels here, and take those that are there")
    arguments = parser.parse_args()
    try:
        make(arguments.folder, arguments.arch, arguments.kernels, arguments.wheels)
    except (Refused, prune.NotUnderstood, OSError, struct.error) as error:
        print(f"make.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
