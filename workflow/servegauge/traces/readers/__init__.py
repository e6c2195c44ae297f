"""Readers, one file per format and schema; a new file is found by itself.

A reader has `KNOWN` (what it reads, in words), `reads(source)`: whether it reads the file, and `read(source)`, which
gives a Capture or raises UserError.
"""

from __future__ import annotations

import gzip
import importlib
import pkgutil
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from servegauge.base.errors import UserError
from servegauge.traces import sqlite_source
from servegauge.traces.capture import Capture
from servegauge.traces.nsys_export import looks_like_nsys

_MAGIC = (
    (b"SQLite format 3\x00", "sqlite"),
    (b"NVIDIA Tegra Profiler", "nsys-rep"),
    (b"PK\x03\x04", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PAR1", "parquet"),
    (b"\x89HDF", "hdf5"),
)


@dataclass(frozen=True)
class Source:
    """A file, what its first bytes say of it, and for nsys exports the schema's version; (0, 0) where it has none."""

    path: Path
    name: str  # of the file as the user named it
    format: str  # sqlite | nsys-rep | json | zip | ... | unknown
    schema: str | None = None
    version: tuple[int, int] | None = None


def readers() -> list[ModuleType]:
    """Every reader of this package, by name."""
    return [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name)
    ]


def read(path: Path) -> Capture:
    """The capture in `path`. UserError, one message, where it is damaged, foreign or of an unknown schema."""
    with _source(path) as source:
        for reader in readers():
            if reader.reads(source):
                return replace(reader.read(source), file=source.name)
    known = "; ".join(reader.KNOWN for reader in readers())
    if source.format == "sqlite":
        found = f"nsys export schema {source.schema} is not known"
    else:
        found = f"not a profile that can be read (it looks like: {source.format})"
    raise UserError(f"{source.name}: {found}. Known are: {known}. Export it to one of these, or update servegauge")


@contextmanager
def _source(path: Path) -> Iterator[Source]:
    """What is at `path`; a gzipped sqlite is unpacked beside the temporary files for as long as it is needed."""
    if path.is_dir():
        inside = sorted(one.name for one in path.iterdir() if one.is_file())
        example = f", for example {path / inside[0]}" if inside else "; it holds none"
        raise UserError(f"{path}: a folder; give the profiler's files, one a rank{example}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; give what a profiler wrote: .sqlite, .nsys-rep, .json or .json.gz")
    try:
        with path.open("rb") as file:
            head = file.read(64)
        if not head:
            raise UserError(f"{path}: empty; the profiler wrote nothing, or the copy was cut off at its beginning")
        packed = head.startswith(b"\x1f\x8b")
        if packed:
            with gzip.open(path) as file:
                head = file.read(64)
            if not head:
                raise UserError(f"{path}: empty inside its gzip; the profiler wrote nothing")
        kind = next((name for magic, name in _MAGIC if head.startswith(magic)), None)
        if kind is None:
            kind = "json" if head.lstrip()[:1] in (b"{", b"[") else _text(head)
        if packed and kind in ("sqlite", "nsys-rep"):
            with tempfile.TemporaryDirectory(prefix="servegauge-trace-") as folder:
                plain = Path(folder) / path.name.removesuffix(".gz")
                with gzip.open(path) as source, plain.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                yield _described(plain, path.name, kind)
        else:
            yield _described(path, path.name, kind)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: its gzip is cut off or damaged ({error}); copy it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _described(path: Path, name: str, kind: str) -> Source:
    if kind != "sqlite":
        return Source(path, name, kind)
    with sqlite_source.opened(path) as export:
        looks_like_nsys(path, export)
        return Source(path, name, kind, export.schema, export.version)


def _text(head: bytes) -> str:
    try:
        text = head[:24].decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return (
        f"text that begins {text!r}" if text.split()[:1] and "\0" not in text else f"bytes that begin {head[:8].hex()}"
    )
