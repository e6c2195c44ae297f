"""Columns and schemas of tables: how one is declared, and how a table is held against one.

Undefined is null, never 0 or NaN. Words that repeat are dictionary-encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.base.files import whole_file

VERSION = 1  # 1: first published form

WORD = pa.dictionary(pa.int32(), pa.string())
WORDS = pa.list_(pa.string())


Row = Mapping[str, Any]
"""A row of a table by the names of its columns; what each holds, and of what type it is, stands in the schema."""


class SchemaError(ValueError):
    """A table or a file is not what its schema says. The text names the column, what was found and what is asked."""


def column(name: str, kind: pa.DataType, description: str, unit: str = "", null: bool = True) -> pa.Field:
    """A column with its meaning and, where it has one, its unit in the metadata."""
    metadata = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, nullable=null, metadata=metadata)


def key(name: str, description: str) -> pa.Field:
    """A column of words that tables are joined on; never null."""
    return column(name, WORD, description, null=False)


def table_schema(table: str, description: str, columns: Iterable[pa.Field]) -> pa.Schema:
    """The schema of a table, with its description and the version of the schemas in the metadata."""
    metadata = {"table": table, "description": description, "servegauge_schema": str(VERSION)}
    return pa.schema(list(columns), metadata=metadata)


KEYS = (
    key("cell", "id of the cell: one load run on a live launch"),
    key("launch", "id of the launch: one server lifetime, the unit of replication"),
)
"""The keys of tables that hold rows of cells."""


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the columns of `schema`: ordered, cast, absent nullable ones as nulls.

    Raises SchemaError for an unknown column, an absent one that must not be null, a value that cannot be cast, and a
    null where none is allowed.
    """
    name = (schema.metadata or {}).get(b"table", b"").decode()
    unknown = sorted(set(table.column_names) - set(schema.names))
    if unknown:
        raise SchemaError(f"table {name}: unknown columns {', '.join(unknown)}; it has {', '.join(schema.names)}")
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise SchemaError(f"table {name}: column {field.name} is absent; it must be {field.type}")
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        values = table.column(field.name)
        if values.type != field.type:
            try:
                values = values.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                found = f"{values.type}, asked is {field.type}: {error}"
                raise SchemaError(f"table {name}: column {field.name} is {found}") from error
        if not field.nullable and values.null_count:
            raise SchemaError(f"table {name}: column {field.name} has {values.null_count} nulls; it must have none")
        columns.append(values)
    return pa.Table.from_arrays(columns, schema=schema)


def write(table: pa.Table, path: Path) -> None:
    """`table` as the Parquet file at `path`, whole or not at all."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def from_rows(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of `schema` from dicts; keys outside the schema are an error, absent keys are null."""
    rows = list(rows)
    unknown = sorted({key for row in rows for key in row} - set(schema.names))
    if unknown:
        raise SchemaError(f"unknown columns {', '.join(unknown)}; there are {', '.join(schema.names)}")
    arrays = [pa.array([row.get(field.name) for row in rows], type=field.type) for field in schema]
    return conform(pa.Table.from_arrays(arrays, names=schema.names), schema)
