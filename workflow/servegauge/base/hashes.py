"""SHA-256 of big files, remembered by path, size and modification time.

Hashing a model takes minutes, reading its files' times takes none. The cache is one JSON file; any number of processes,
on any node that sees it, may use it at once: it is replaced as a whole, and a lost update costs one hash again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from servegauge.base.files import read_json, sha256, write_json

CACHE = Path(".cache/hashes.json")
# A file that changed this shortly ago may change again without a new time: clocks of file systems are coarse
RACY_NS = 2_000_000_000


def files_of(paths: Iterable[Path | str]) -> list[Path]:
    """The files themselves; folders are walked in sorted order, without hidden files and folders (.git, .cache)."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
    return found


def file_hashes(
    paths: Iterable[Path | str], cache: Path = CACHE, known_only: bool = False, stamps: Iterable[Path] = ()
) -> dict[str, dict[str, Any]]:
    """{path: {"sha256", "bytes", "modified_ns", "how", "reason"}} of files, and of the files below folders.

    `how`: hashed (now), cache, or stamp. `stamps`: JSON files {"files": {name: {"sha256", "bytes"}}} that a fetch or a
    build wrote beside its files; one is used for a file of the same size that is not newer than it. `known_only`:
    hash nothing. What is not known then, cannot be read, or changes while it is read, is None with a reason. Symbolic
    links are followed (a hub's cache is made of them).
    """
    entries = _read(cache)
    stamped = _stamped(stamps)
    found: dict[str, dict[str, Any]] = {}
    fresh: dict[str, dict[str, Any]] = {}
    for path in files_of(paths):
        one: dict[str, Any] = {"sha256": None, "bytes": None, "modified_ns": None, "how": None, "reason": None}
        found[str(path)] = one
        try:
            real = str(path.resolve())
            before = os.stat(real)
            one |= {"bytes": before.st_size, "modified_ns": before.st_mtime_ns}
            entry = entries.get(real)
            if entry and entry["bytes"] == before.st_size and entry["modified_ns"] == before.st_mtime_ns:
                one |= {"sha256": entry["sha256"], "how": "cache"}
                continue
            stamp = stamped.get(real)
            if stamp and stamp["bytes"] == before.st_size and before.st_mtime_ns <= stamp["modified_ns"]:
                one |= {"sha256": stamp["sha256"], "how": "stamp"}
                continue
            if known_only:
                one["reason"] = "not hashed yet, and hashing was not asked for here"
                continue
            digest = sha256(Path(real))
            after = os.stat(real)
        except OSError as error:
            one["reason"] = f"could not be read: {error.strerror or error}"
            continue
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            one["reason"] = "changed while it was read"
            continue
        one |= {"sha256": digest, "how": "hashed"}
        if time.time_ns() - after.st_mtime_ns > RACY_NS:
            fresh[real] = {"sha256": digest, "bytes": after.st_size, "modified_ns": after.st_mtime_ns}
    if fresh:
        _add(cache, fresh)
    return found


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    """The cache's entries; none where it is absent or damaged: it is a cache."""
    try:
        data = read_json(cache)
    except (OSError, ValueError):
        return {}
    return _entries(data, sha256=str, bytes=int, modified_ns=int)


def _entries(data: Any, **wanted: type) -> dict[str, dict[str, Any]]:
    """The entries of `data` that have the wanted fields."""
    return {
        name: entry
        for name, entry in (data.items() if isinstance(data, dict) else ())
        if isinstance(entry, dict) and all(isinstance(entry.get(field), kind) for field, kind in wanted.items())
    }


def _stamped(stamps: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Real path -> {"sha256", "bytes", "modified_ns" of the stamp}; names in a stamp count from its folder."""
    found: dict[str, dict[str, Any]] = {}
    for stamp in stamps:
        try:
            data, written = read_json(stamp), stamp.stat().st_mtime_ns
        except (OSError, ValueError):
            continue
        files = _entries(data.get("files") if isinstance(data, dict) else None, sha256=str, bytes=int)
        for name, entry in files.items():
            found[str((stamp.parent / name).resolve())] = {**entry, "modified_ns": written}
    return found


def _add(cache: Path, fresh: dict[str, dict[str, Any]]) -> None:
    with contextlib.suppress(OSError), _locked(cache):  # a read-only or full disk: hashed again next time
        write_json(cache, {**_read(cache), **fresh})


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One writer at a time, where the file system has locks; elsewhere an update may be lost, never damaged."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_suffix(".lock").open("w") as lock:
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
