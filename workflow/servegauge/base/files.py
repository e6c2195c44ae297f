"""Files that are whole or absent: everything the pipeline keeps is written here.

Written to a temporary name beside the target, flushed to the disk, renamed. A reader, and a process that was killed at
any moment, sees the old state or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Flush one file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _allowed(mode: int) -> int:
    """`mode` less what the user's umask takes away, as for any file; a group may share results."""
    umask = os.umask(0o077)
    os.umask(umask)
    return mode & ~umask


@contextlib.contextmanager
def whole_file(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary path to write to; it becomes `path` when the block ends well and disappears when it does not.

    `mode` is its mode, less the user's umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_allowed(mode))
        fsync(temporary)
        temporary.replace(path)
        fsync(path.parent)
    except OSError as error:
        if error.filename in (None, name):  # a library that wrote to a full disk does not say where
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path, writer: str = "") -> Iterator[Path]:
    """A temporary folder to fill; it becomes `path` when the block ends well and disappears when it does not.

    `writer` is part of its temporary name, `.<name>.<writer>.<random>`, so that a restarted process finds its own.
    An existing `path` with anything in it is never replaced: measured bytes are immutable. FileExistsError says so.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.{writer}."))
    try:
        # A folder that gives its files its group has passed that on to this one, and goes on doing so.
        temporary.chmod(_allowed(0o777) | temporary.stat().st_mode & stat.S_ISGID)
        yield temporary
        for file in temporary.iterdir():
            fsync(file)
        fsync(temporary)
        if path.exists() and any(path.iterdir()):
            raise FileExistsError(f"{path} is measured already and is never overwritten")
        temporary.rename(path)  # takes the place of an empty folder, which Snakemake makes for its targets
        fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_folder(path: Path, target: Path) -> None:
    """Rename a folder; where `target` is on another file system, copy it whole, then remove `path`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with whole_folder(target) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True)
        shutil.rmtree(path)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write `text` to `path`, whole or not at all."""
    with whole_file(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any, mode: int = 0o666) -> None:
    """Write `data` as indented JSON to `path`, whole or not at all. NaN is refused: undefined is null."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", mode)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds; ValueError where it is none, or nested deeper than Python's stack takes."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_json(path: Path) -> Any:
    """The JSON document at `path`. OSError, ValueError."""
    return parse_json(path.read_text(encoding="utf-8"))


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object at `path`; empty where the file is absent or damaged, or holds something else."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
