"""What every document has: a version, one reader that says what it can read, one writer.

A document is read whole or refused: `read` checks every field's type, brings a document of an older version up to date,
and raises `DamagedRecord`, which names the file, the place in it and the way out. Fields that a document has beside
those of its struct are ignored, so that one of the same version that says more can be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from servegauge.base.errors import UserError
from servegauge.base.files import write_json

Migration = Callable[[dict[str, Any]], dict[str, Any]]
R = TypeVar("R", bound="Record")


class DamagedRecord(UserError):
    """A file is not the document that it should be. `reason` says why, without the file's name."""

    def __init__(self, path: Path, kind: type[Record], reason: str) -> None:
        remedy = self._remedy(kind).format(path=path, folder=path.parent, name=path.stem)
        super().__init__(f"{path} is not {kind.WHAT}: {reason}. {remedy}")
        self.path, self.reason = path, reason

    def _remedy(self, kind: type[Record]) -> str:
        return kind.REMEDY


class NewerRecord(DamagedRecord):
    """A file is of a version that only a newer servegauge reads: nothing is wrong with it."""

    def _remedy(self, kind: type[Record]) -> str:
        return kind.NEWER or kind.REMEDY


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A document. A subclass sets what a person reads when it is damaged, and how older versions become its own.

    `REMEDY` may name `{path}`, its `{folder}` and its `{name}` without the suffix; `NEWER` stands in its place where a
    newer servegauge wrote the document. `MIGRATIONS[v]` makes a document of version v one of version v + 1, as plain
    data. A document without `version` is one of version 1.
    """

    WHAT: ClassVar[str] = "a document"
    REMEDY: ClassVar[str] = "Restore it from a backup."
    NEWER: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {}

    version: int = 1


class _Versioned(msgspec.Struct, frozen=True):
    version: int = 1


def decode(data: bytes, kind: type[R], path: Path) -> R:
    """The document in `data`, which was read from `path`. DamagedRecord where it is none, or of a newer version."""
    try:
        found = msgspec.json.decode(data, type=_Versioned).version
        if found == kind.VERSION:
            return msgspec.json.decode(data, type=kind)
        if not 1 <= found < kind.VERSION:
            reason = f"it has version {found}, and this servegauge reads versions 1 to {kind.VERSION}"
            raise (NewerRecord if found > kind.VERSION else DamagedRecord)(path, kind, reason)
        plain = msgspec.json.decode(data, type=dict[str, Any])
        for version in range(found, kind.VERSION):
            plain = {**kind.MIGRATIONS[version](plain), "version": version + 1}
        return msgspec.convert(plain, kind)
    # The three after ValueError by a migration of damaged data.
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedRecord(path, kind, reason) from error


def read(path: Path, kind: type[R]) -> R:
    """The document at `path`. FileNotFoundError where there is none; DamagedRecord where it cannot be read."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedRecord(path, kind, error.strerror or str(error)) from error
    return decode(data, kind, path)


def read_if_there(path: Path, kind: type[R]) -> R | None:
    """The document at `path`; None where there is none."""
    try:
        return read(path, kind)
    except FileNotFoundError:
        return None


def plain(record: Any) -> Any:
    """A record, or a part of one, as dicts and lists."""
    return msgspec.to_builtins(record)


def write(path: Path, record: Record, mode: int = 0o666) -> None:
    """Write `record` to `path` as JSON, whole or not at all."""
    write_json(path, plain(record), mode)
