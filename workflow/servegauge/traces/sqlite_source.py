"""An nsys sqlite export, opened read-only: its version, its tables, and columns in numpy.

A measured choice: adbc-driver-sqlite reads a million rows of kernels in 0.4 s of CPU time and a million rows of calls
in 0.3 s, sqlite3 of the standard library in 0.8 s and 0.7 s. It reads the large tables; the rest is asked of sqlite3.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from adbc_driver_sqlite import dbapi

from servegauge.base.errors import UserError

_ROWS = 65536
_HEADER = b"SQLite format 3\x00"
_META = ("META_DATA_EXPORT", "EXPORT_META_DATA")  # the second until nsys 2022


class Export:
    """An open export. Raises UserError where the file is damaged or is no nsys export."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection
        tables = self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        self.columns = {
            str(name): {str(row[1]) for row in self.rows(f"PRAGMA table_info({_quoted(name)})")} for (name,) in tables
        }
        meta = next((name for name in _META if name in self.columns), None)
        self.meta = {str(name): value for name, value in self.rows(f"SELECT name, value FROM {meta}")} if meta else {}

    @property
    def schema(self) -> str | None:
        """`3.20.3`, or None for exports from before nsys wrote a version."""
        return self.meta.get("EXPORT_SCHEMA_VERSION")

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor of the schema; (0, 0) where the file has no version, beyond all where it is no version."""
        found = re.match(r"(\d+)\.(\d+)", str(self.schema or "0.0"))
        return (int(found[1]), int(found[2])) if found else (sys.maxsize, 0)

    def has(self, table: str, *columns: str) -> bool:
        return table in self.columns and set(columns) <= self.columns[table]

    def rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        """Every row that the query gives."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise damaged(self.path, error) from error

    def value(self, query: str) -> Any:
        """The first column of the first row, None without rows."""
        rows = self.rows(query)
        return rows[0][0] if rows else None

    def batches(self, table: str, columns: dict[str, str]) -> Iterator[dict[str, np.ndarray]]:
        """The table's rows, 65,536 at a time: `columns` maps a name to an SQL expression; every value is int64."""
        expressions = ", ".join(f"{expression} AS {_quoted(name)}" for name, expression in columns.items())
        try:
            with dbapi.connect(_uri(self.path)) as connection, connection.cursor() as cursor:
                cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_ROWS)})
                cursor.execute(f"SELECT {expressions} FROM {_quoted(table)}")
                for batch in cursor.fetch_record_batch():
                    wrong = [name for name in columns if batch[name].type != pa.int64() or batch[name].null_count]
                    if wrong and batch.num_rows:
                        raise UserError(self.no_integer(table, ", ".join(wrong)))
                    if batch.num_rows:
                        yield {name: batch[name].to_numpy(zero_copy_only=False) for name in columns}
        except (dbapi.Error, pa.ArrowException, OSError) as error:
            text = str(error)
            if "[SQLite]" in text and "type" in text:
                raise UserError(self.no_integer(table, ", ".join(columns))) from error
            raise damaged(self.path, error) from error

    def no_integer(self, table: str, columns: str) -> str:
        """The message for a value that is no integer."""
        return (
            f"{self.path}: table {table} holds a value that is no integer in {columns}; export the report again with "
            "`nsys export --type sqlite`"
        )

    def texts(self, ids: Iterable[int]) -> dict[int, str]:
        """Texts of StringIds for these ids; one that is absent is left out."""
        wanted = sorted({int(value) for value in ids})
        found: dict[int, str] = {}
        if not self.has("StringIds", "id", "value"):
            return found
        for at in range(0, len(wanted), 900):
            some = wanted[at : at + 900]
            marks = ",".join("?" * len(some))
            found.update(self.rows(f"SELECT id, value FROM StringIds WHERE id IN ({marks})", some))
        return found

    def names(self, ids: Iterable[int]) -> list[str]:
        """The text of each id, in their order; of one that is absent, words that say so."""
        wanted = list(ids)
        texts = self.texts(wanted)
        return [texts.get(value, f"unknown name {value}") for value in wanted]


@contextmanager
def opened(path: Path) -> Iterator[Export]:
    """The export at `path`, closed afterwards."""
    whole(path)
    try:
        connection = sqlite3.connect(_uri(path), uri=True)
    except sqlite3.Error as error:
        raise damaged(path, error) from error
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    with closing(connection):
        yield Export(path, connection)


def _uri(path: Path) -> str:
    fixed = "" if path.with_name(path.name + "-wal").exists() else "&immutable=1"
    return f"{path.absolute().as_uri()}?mode=ro{fixed}"


def whole(path: Path) -> None:
    """Raise UserError where the file is shorter than its own header says."""
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or not head.startswith(_HEADER):
        raise UserError(f"{path}: not an sqlite database, or cut off in its header ({len(head)} bytes read)")
    page = int.from_bytes(head[16:18], "big")
    page = 65536 if page == 1 else page
    asked, found = page * int.from_bytes(head[28:32], "big"), path.stat().st_size
    if asked > found:
        raise UserError(
            f"{path}: cut off: its header promises {asked:,} bytes, there are {found:,}; copy it again, or export the "
            "report again with `nsys export --type sqlite`"
        )


def damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: sqlite cannot read it ({error}); the file is damaged or still being written: copy it again, or "
        "export the report again with `nsys export --type sqlite`"
    )


def _quoted(name: str) -> str:
    return '"' + str(name).replace('"', '""') + '"'
